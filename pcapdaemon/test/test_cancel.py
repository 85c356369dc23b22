# See LICENSE for details.
"""
Messages that end captures: L{pcapdaemon.request.cancelled} and what
L{pcapdaemon.intake} makes of it.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.intake import Intake
from pcapdaemon.interfaces import Answer, Reason, Refused, Verdict
from pcapdaemon.request import cancelled, parse
from pcapdaemon.test.fixtures import makeBench
from pcapdaemon.test.test_intake import RULES
from pcapdaemon.testing import MemoryFilterChecker


class ParsingTests(SynchronousTestCase):
    """
    What is such a message.
    """

    def test_none(self) -> None:
        """A request for captures is none."""
        self.assertIsNone(cancelled({"node": "any", "interface": "eth0"}))

    def test_name(self) -> None:
        """It names what is to end."""
        self.assertEqual(cancelled({"nodere": "web", "cancel": "x" * 200}), "x" * 200)

    def test_wrong(self) -> None:
        """What is wrong with it is said."""
        for fields, word in (
            ({"cancel": ""}, "node, nodere"),
            ({"node": "any", "cancel": ""}, "cancel"),
            ({"node": "any", "cancel": 7}, "cancel"),
            ({"node": "any", "cancel": "x" * 201}, "200"),
            ({"nodere": "(", "cancel": "x"}, "nodere"),
            ({"node": "any", "cancel": "x", "interface": "eth0"}, "without interface"),
        ):
            with self.subTest(fields=fields):
                refused = self.assertRaises(Refused, cancelled, fields)
                self.assertEqual(refused.reason, Reason.INVALID)
                self.assertIn(word, refused.detail)

    def test_requestId(self) -> None:
        """C{request_id} is a short text that is not empty."""
        ours = {"node": "any", "interface": "eth0"}
        self.assertEqual(parse({**ours, "request_id": "a b"}).request_id, "a b")
        for wrong in ("", 7, None, ["a"], "x" * 201):
            with self.subTest(wrong=wrong):
                refused = self.assertRaises(
                    Refused, parse, {**ours, "request_id": wrong}
                )
                self.assertIn("request_id", refused.detail)


class IntakeTests(SynchronousTestCase):
    """
    What happens then.
    """

    def setUp(self) -> None:
        self.bench = makeBench(self)
        self.bench.system.addDevice("eth1")
        self.checker = MemoryFilterChecker()
        self.intake = Intake(
            "web1",
            RULES,
            self.bench.system,
            self.checker,
            self.bench.captures,
            self.bench.events,
            self.bench.clock,
        )

    def send(self, **fields: Any) -> Answer:
        message = json.dumps({"node": "any", **fields}).encode()
        return self.successResultOf(self.intake.receive(message, "redis"))

    def stops(self) -> dict[str, str]:
        """Captures that are over, by device, and why."""
        completed = self.bench.observed.named("completed")
        return {event["interface"]: event["stop"] for event in completed}

    def test_request(self) -> None:
        """All captures of a request end, and no other."""
        mine = self.send(interface=["eth0", "eth1"], request_id="mine").ids
        other = self.send(interface="eth0", request_id="other").ids
        answer = self.send(cancel="mine")
        self.assertEqual((answer.verdict, answer.ids), (Verdict.TAKEN, mine))
        self.assertEqual(self.stops(), {"eth0": "cancelled", "eth1": "cancelled"})
        self.assertEqual(tuple(self.bench.captures.progress()), other)

    def test_undecided(self) -> None:
        """
        A request whose filter is still looked at is found, too, and ends as soon as
        it has begun; others are not touched.
        """
        requests = {"a": {"request_id": "mine"}, "b": {"request_id": "other"}, "c": {}}
        answers = []
        for bpf, about in requests.items():
            self.checker.verdicts[bpf] = Deferred()
            message = {"node": "any", "interface": "eth0", "bpf": bpf, **about}
            answers.append(self.intake.receive(json.dumps(message).encode(), "redis"))
        told = self.send(cancel="mine")
        self.assertIs(told.verdict, Verdict.TAKEN)
        for looking in self.checker.verdicts.values():
            assert isinstance(looking, Deferred)
            looking.callback("")
        mine, *others = (self.successResultOf(each).ids for each in answers)
        self.assertEqual(told.ids, mine)
        self.assertEqual(self.stops(), {"eth0": "cancelled"})
        running = [(id,) for id in self.bench.captures.progress()]
        self.assertEqual(running, others)
        self.assertIs(self.send(cancel="mine").verdict, Verdict.NOT_OURS)

    def test_undecidedRefused(self) -> None:
        """One that is refused in the end leaves nothing behind."""
        looking: Deferred[str] = Deferred()
        self.checker.verdicts["slow"] = looking
        request = {"node": "any", "interface": "eth0", "bpf": "slow", "request_id": "r"}
        answer = self.intake.receive(json.dumps(request).encode(), "redis")
        self.send(cancel="r")
        looking.errback(Refused(Reason.BAD_FILTER, "no"))
        self.assertEqual(self.successResultOf(answer).reason, Reason.BAD_FILTER)
        self.assertIs(self.send(cancel="r").verdict, Verdict.NOT_OURS)

    def test_capture(self) -> None:
        """One of them can be named by its identifier."""
        first, second = self.send(interface=["eth0", "eth1"], request_id="r").ids
        self.assertEqual(self.send(cancel=second).ids, (second,))
        self.assertEqual(tuple(self.bench.captures.progress()), (first,))

    def test_none(self) -> None:
        """Where there is none, it was for another node."""
        self.send(interface="eth0")
        for name in ("r", "eth0"):
            self.assertIs(self.send(cancel=name).verdict, Verdict.NOT_OURS)
        self.assertIs(self.send(cancel="r", node="web2").verdict, Verdict.NOT_OURS)
        self.assertEqual(len(self.bench.captures.progress()), 1)

    def test_refused(self) -> None:
        """What is wrong is refused, and its events say whose it was."""
        answer = self.send(cancel="", request_id="r")
        self.assertEqual(answer.reason, Reason.INVALID)
        self.assertEqual(self.bench.event("rejected")["request_id"], "r")

    def test_events(self) -> None:
        """All events of a request have its C{request_id}."""
        self.send(interface="eth0", request_id="r", packets=1)
        self.bench.receive(0, 1)
        self.assertEqual(self.bench.names(), ["accepted", "armed", "completed"])
        for event in self.bench.observed.events:
            self.assertEqual(event["request_id"], "r")
