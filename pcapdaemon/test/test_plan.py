# See LICENSE for details.
"""
Tests for L{pcapdaemon.plan}.
"""

from __future__ import annotations

from typing import Any

import attrs

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.interfaces import Reason, Refused
from pcapdaemon.plan import CapturePlan, Limits, check, makePlan, newId
from pcapdaemon.request import CaptureRequest

LIMITS = Limits(
    maxpackets=50000,
    maxbytes=100000000,
    snaplength=500,
    defaulttimeout=10,
    maxtimeout=3600,
    maxduration=7200,
    maxfilter=1024,
)


def plan(request: CaptureRequest | None = None, **changes: Any) -> CapturePlan:
    """
    A plan on C{eth0} of C{web1}, changed afterwards.
    """
    made = makePlan(
        request or CaptureRequest(node="any", interfaces=("eth0",)),
        device="eth0",
        alias="",
        filter="",
        limits=LIMITS,
        node="web1",
        id="abcdefghijkl",
        created=1700000000.75,
    )
    return attrs.evolve(made, **changes)


class CheckTests(SynchronousTestCase):
    """
    Tests for L{check}.
    """

    def test_silent(self) -> None:
        """
        A request that asks for nothing is within every limit.
        """
        check(CaptureRequest(), LIMITS)

    def test_most(self) -> None:
        """
        A value at its maximum is allowed.
        """
        check(
            CaptureRequest(
                packets=50000,
                size=100000000,
                timeout=3600.0,
                duration=7200.0,
                filter="x" * 1024,
            ),
            LIMITS,
        )

    def test_beyond(self) -> None:
        """
        A value above its maximum is refused, naming key, value and bound.
        """
        for request, detail in (
            (
                CaptureRequest(packets=50001),
                "packets is 50001; allowed is at most 50000 (maxpackets)",
            ),
            (
                CaptureRequest(size=100000001),
                "bytes is 100000001; allowed is at most 100000000 (maxbytes)",
            ),
            (
                CaptureRequest(timeout=3600.5),
                "timeout is 3600.5; allowed is at most 3600 (maxtimeout)",
            ),
            (
                CaptureRequest(duration=7201.0),
                "duration is 7201.0; allowed is at most 7200 (maxduration)",
            ),
            (
                CaptureRequest(filter="x" * 1025),
                "length of bpf is 1025; allowed is at most 1024 (maxfilter)",
            ),
        ):
            e = self.assertRaises(Refused, check, request, LIMITS)
            self.assertEqual((e.reason, e.detail), (Reason.LIMIT, detail))

    def test_hugeValue(self) -> None:
        """
        The refusal of a huge value is short.
        """
        e = self.assertRaises(Refused, check, CaptureRequest(packets=10**4000), LIMITS)
        self.assertLess(len(e.detail), 100)


class MakePlanTests(SynchronousTestCase):
    """
    Tests for L{makePlan}.
    """

    def test_defaults(self) -> None:
        """
        Where the request is silent, the limits speak.
        """
        request = CaptureRequest(node="any", interfaces=("eth0",), filter="tcp")
        made = makePlan(
            request, "eth0", "public", "(tcp) and ip", LIMITS, "web1", "x1", 5.5
        )
        self.assertEqual(
            made,
            CapturePlan(
                id="x1",
                node="web1",
                device="eth0",
                alias="public",
                filter="(tcp) and ip",
                direction="both",
                snaplength=500,
                packets=50000,
                size=100000000,
                timeout=10.0,
                duration=7200.0,
                created=5.5,
                request=request,
            ),
        )

    def test_asked(self) -> None:
        """
        What the request says is taken.
        """
        made = plan(
            CaptureRequest(
                direction="out",
                snaplength=64,
                packets=1,
                size=2,
                timeout=0.5,
                duration=1.5,
            )
        )
        self.assertEqual(made.direction, "out")
        self.assertEqual(
            (made.snaplength, made.packets, made.size, made.timeout, made.duration),
            (64, 1, 2, 0.5, 1.5),
        )

    def test_types(self) -> None:
        """
        Times are floats and the others integers, wherever they come from.
        """
        made = plan()
        self.assertEqual([type(made.timeout), type(made.duration)], [float, float])
        self.assertEqual(
            [type(made.snaplength), type(made.packets), type(made.size)],
            [int, int, int],
        )


class FilenameTests(SynchronousTestCase):
    """
    Tests for the name of a file.
    """

    def test_parts(self) -> None:
        """
        A name is made of node, device, time in whole seconds and identifier.
        """
        self.assertEqual(
            plan(node="web1.example.com", device="eth0.5_x").filename,
            "web1.example.com-eth0.5_x-1700000000-abcdefghijkl.pcap",
        )

    def test_safe(self) -> None:
        """
        What a file system, an S3 key or a shell might mistake is replaced.
        """
        self.assertEqual(
            plan(node="../../etc", device="eth0:1/é\n").filename,
            "_._.._etc-eth0_1___-1700000000-abcdefghijkl.pcap",
        )
        self.assertTrue(plan(node=".hidden").filename.startswith("_hidden-"))
        self.assertTrue(plan(node="-rf").filename.startswith("_rf-"))
        self.assertIn("-_-", plan(device=".").filename)

    def test_length(self) -> None:
        """
        A name has at most 200 bytes, of which no part is pushed out.
        """
        name = plan(node="é" * 300, device="d" * 300).filename
        self.assertLessEqual(len(name.encode("utf-8")), 200)
        self.assertTrue(name.endswith("dd-1700000000-abcdefghijkl.pcap"), name)


class TagsTests(SynchronousTestCase):
    """
    Tests for the tags of a file.
    """

    def test_all(self) -> None:
        """
        The parts come in a fixed order.
        """
        request = CaptureRequest(customer="acme", alertid=7, tags="a,b")
        self.assertEqual(
            plan(request, alias="public").tags,
            "customer:acme,alertid:7,a,b,alias:public,node:web1,interface:eth0,"
            "snaplength:500",
        )

    def test_empty(self) -> None:
        """
        What is empty is left out.
        """
        self.assertEqual(plan().tags, "node:web1,interface:eth0,snaplength:500")

    def test_zero(self) -> None:
        """
        An alert may be number 0.
        """
        self.assertIn("alertid:0,", plan(CaptureRequest(alertid=0)).tags)


class NewIdTests(SynchronousTestCase):
    """
    Tests for L{newId}.
    """

    def test_form(self) -> None:
        """
        An identifier is twelve lower-case letters and digits.
        """
        for _ in range(100):
            self.assertRegex(newId(), r"\A[a-z0-9]{12}\Z")

    def test_random(self) -> None:
        """
        All of the randomness that was asked for is in it, which is 56 bits.
        """
        asked: list[int] = []

        def ones(count: int) -> bytes:
            asked.append(count)
            return b"\xff" * count

        self.assertEqual(newId(ones), "77777777777q")
        self.assertEqual(asked, [7])
        single = iter([(1 << i).to_bytes(7, "big") for i in range(56)])
        self.assertEqual(
            len({newId(lambda count: next(single)) for _ in range(56)}), 56
        )
