# See LICENSE for details.
"""
What the command line makes of events.
"""

from __future__ import annotations

import io
import json
import queue
from typing import Any

from rich.console import Console

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.cli import address, bus
from pcapdaemon.cli.bus import Access, BusError, Note, Receipt, Sender
from pcapdaemon.cli.display import JsonView, LiveView, PlainView, View
from pcapdaemon.cli.follow import Follow, Patience
from pcapdaemon.cli.tracker import DONE, FAILED, NOBODY, Capture, Tracker
from pcapdaemon.events import CATALOGUE

LIMITS = {"packets": 100, "bytes": 1_000_000, "timeout": 10, "duration": 60}


def event(
    kind: str, node: str = "web1", id: str = "a", **fields: Any
) -> dict[str, Any]:
    """
    An event of the request C{r}.
    """
    about = {"event": kind, "node": node, "id": id, "request_id": "r"}
    if kind == "accepted":
        fields.setdefault("limits", LIMITS)
    if kind not in ("rejected", "stored"):
        fields.setdefault("interface", "eth0")
    return {**about, **fields}


def completed(id: str = "a", **fields: Any) -> dict[str, Any]:
    """
    The end of a capture with some packets and one sink.
    """
    told: dict[str, Any] = {
        "packets": 7,
        "bytes": 500,
        "dropped": {"kernel": 0, "interface": 0},
        "stop": "packets",
        "sha256": "0" * 64,
        "filename": f"web1-eth0-1-{id}.pcap",
        "sinks": ["local"],
    }
    return event("completed", id=id, **{**told, **fields})


class TrackerTests(SynchronousTestCase):
    """
    L{Tracker}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.tracker = Tracker("r", self.clock.seconds)

    def take(self, *events: dict[str, Any]) -> Capture:
        """
        Take events of one capture.
        """
        for each in events:
            self.tracker.take(each)
        return next(iter(self.tracker.captures.values()))

    def test_life(self) -> None:
        """
        A capture is over when each of its sinks has its file.
        """
        sinks = ["local", "s3"]
        capture = self.take(event("accepted"), event("armed"), completed(sinks=sinks))
        self.assertFalse(capture.over)
        self.take(event("stored", sink="local", url="file:///a"))
        self.assertEqual((capture.over, self.tracker.over), (False, False))
        self.take(event("stored", sink="s3", url="https://a/b/c"))
        self.assertEqual((capture.over, capture.good), (True, True))
        self.assertEqual(self.tracker.outcome(), (DONE, []))
        self.assertEqual(capture.places["s3"], "https://a/b/c")

    def test_noSinks(self) -> None:
        """
        Without packets there is no file to wait for.
        """
        nothing = completed(packets=0, stop="timeout")
        del nothing["sinks"]
        self.assertTrue(self.take(event("accepted"), event("armed"), nothing).good)

    def test_failures(self) -> None:
        """
        What fails, is lost or waits in the spool is no success; what comes out of
        the spool is.
        """
        for stage in "capture", "decode":
            self.setUp()
            failed = event("failed", stage=stage, reason="why")
            capture = self.take(event("accepted"), failed)
            self.assertEqual((capture.over, capture.good), (True, False))
            self.assertEqual(capture.reasons, ["why"])
        for lost in True, False:
            self.setUp()
            failed = event("failed", stage="store", sink="local", reason="w", lost=lost)
            capture = self.take(event("accepted"), event("armed"), completed(), failed)
            self.assertEqual((capture.over, capture.good), (True, False))
            self.assertEqual(self.tracker.outcome()[0], FAILED)
        self.take(event("stored", sink="local", url="file:///a"))
        self.assertEqual(self.tracker.outcome()[0], DONE)

    def test_foreign(self) -> None:
        """
        Events of other requests, and things that are none, are nothing to it.
        """
        for each in (
            {**event("accepted"), "request_id": "other"},
            {k: v for k, v in event("accepted").items() if k != "request_id"},
            event("surprise"),
        ):
            self.assertIsNone(self.tracker.take(each))
        self.assertEqual(self.tracker.captures, {})
        self.assertEqual(self.tracker.outcome(), (NOBODY, ["nobody answered"]))

    def test_odd(self) -> None:
        """
        Events with values of any kind do no harm.
        """
        odd: list[Any] = [None, True, "x", 10**400, -1, 1e308, [], {}, ["x", None]]
        fields = "limits packets bytes dropped rate elapsed sinks sink url reason stop"
        for value in odd:
            self.setUp()
            for kind in CATALOGUE:
                told = dict.fromkeys([*fields.split(), "interface", "alias"], value)
                self.tracker.take({**event(kind), **told})
            self.clock.advance(1)
            for capture in self.tracker.captures.values():
                self.assertLessEqual(capture.nearest(self.clock.seconds())[1], 1)
            table(self.tracker)

    def test_nearest(self) -> None:
        """
        The bar goes with the limit that is the nearest; time goes on by itself,
        and a packet puts an end to idling.
        """
        capture = self.take(event("accepted"))
        self.assertEqual(capture.nearest(0), ("", 0))
        self.take(event("armed"))
        self.clock.advance(5)
        self.assertEqual(capture.nearest(5), ("timeout", 0.5))
        self.take(event("progress", elapsed=5, packets=1, bytes=100))
        self.assertEqual(capture.nearest(5), ("duration", 5 / 60))
        self.take(event("progress", elapsed=5, packets=90, bytes=100))
        self.assertEqual(capture.nearest(5), ("packets", 0.9))
        self.take(event("progress", elapsed=5, packets=91, bytes=950_000))
        self.assertEqual(capture.nearest(5), ("bytes", 0.95))
        self.take(completed())
        self.assertEqual(capture.nearest(5), ("", 1))

    def test_expected(self) -> None:
        """
        What a daemon said that it began is waited for, and counts as lost where
        nothing of it is heard; so does a node that does not answer.
        """
        self.tracker.began("web1", ["a", "b"])
        nothing = completed(packets=0, sinks=[])
        self.take(event("accepted"), event("armed"), nothing)
        self.assertFalse(self.tracker.over)
        status, said = self.tracker.outcome(expect=2)
        self.assertEqual(status, FAILED)
        self.assertIn("nothing was heard of capture b", said[0])
        self.assertIn("1 of 2", said[1])


class _Bus(Sender):
    """
    A bus that answers as the test says.
    """

    def __init__(self, *answers: Receipt | BusError) -> None:
        super().__init__(address.parse("redis://h/c"), Access())
        self.answers = list(answers)
        self.messages: list[Any] = []

    def publish(self, message: bytes) -> Receipt:
        self.messages.append(json.loads(message))
        answer = self.answers.pop(0)
        if isinstance(answer, BusError):
            raise answer
        return answer


class _Inbox(queue.Queue[Any]):
    """
    Where time passes while somebody waits.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if self.empty():
            self._clock.advance(timeout or 0.01)
        return super().get(block=False)


class FollowTests(SynchronousTestCase):
    """
    L{Follow}: when it is over, and what comes of it.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.inbox = _Inbox(self.clock)
        self.tracker = Tracker("r", self.clock.seconds)
        self.output, self.errors = io.StringIO(), io.StringIO()
        self.view: View = JsonView(self.tracker, self.output, self.errors)

    def follow(
        self, *events: Any, wait: float = 3, expect: int = 0, limit: float | None = None
    ) -> tuple[int, list[str]]:
        """
        Follow a request of which these events come at once.
        """
        for each in events:
            self.inbox.put(each)
        patience = Patience(wait, expect, limit)
        following = Follow(
            self.tracker, self.view, self.inbox, patience, self.clock.seconds
        )
        following.send([_Bus(Receipt(heard=2))], b"{}")
        following.run()
        return following.outcome()

    def test_wait(self) -> None:
        """
        On a bus it is not over before the nodes had time to answer.
        """
        status, _ = self.follow(event("accepted"), completed(packets=0, sinks=[]))
        self.assertEqual(status, DONE)
        self.assertGreaterEqual(self.clock.seconds(), 3)

    def test_expect(self) -> None:
        """
        It is, as soon as all have answered that are expected; a refusal is an
        answer.
        """
        refused = event("rejected", node="web2", reason="busy", detail="too many")
        status, said = self.follow(
            event("accepted"), completed(packets=0, sinks=[]), refused, expect=2
        )
        self.assertEqual((status, said), (FAILED, []))
        self.assertLess(self.clock.seconds(), 1)

    def test_nobody(self) -> None:
        """
        When nobody answers that is the outcome.
        """
        self.assertEqual(self.follow(), (NOBODY, ["nobody answered"]))

    def test_late(self) -> None:
        """
        A capture of which no end is told is given up at last, and named.
        """
        status, said = self.follow(event("accepted"), event("armed"), limit=20)
        self.assertEqual(status, FAILED)
        self.assertIn("web1 eth0: no end of capture a was told within 20 s", said)
        self.assertGreater(self.clock.seconds(), 20)

    def test_lateByItself(self) -> None:
        """
        It is, too, where nobody says how long to wait: the daemon may be dead.
        """
        status, _ = self.follow(event("accepted"), event("armed"))
        self.assertEqual(status, FAILED)
        self.assertGreater(self.clock.seconds(), 360)
        self.assertLess(self.clock.seconds(), 370)

    def test_json(self) -> None:
        """
        Every event is one line of JSON once, by however many ways it comes; and
        everything else is on standard error.
        """
        events = [event("accepted"), event("armed"), completed(packets=0, sinks=[])]
        self.follow(
            *events, *events, Note("by the way"), {**events[0], "request_id": "x"}
        )
        lines = self.output.getvalue().splitlines()
        self.assertEqual([json.loads(line) for line in lines], events)
        self.assertIn("by the way", self.errors.getvalue())

    def test_missed(self) -> None:
        """
        Where a daemon has dropped events, that is said, once.
        """
        gap = event("armed", missed=7)
        self.follow(event("accepted"), gap, gap, completed(packets=0, sinks=[]))
        said = "web1 dropped events before this one: 7"
        self.assertEqual(self.errors.getvalue().count(said), 1)

    def test_sending(self) -> None:
        """
        A bus that fails is an outcome, and does not keep the request from others.
        What a server refuses is told as an event, if it does not tell it itself.
        """
        following = Follow(
            self.tracker, self.view, self.inbox, Patience(1), self.clock.seconds
        )
        refusal = Receipt(heard=1, node="web9", reason="too-large", detail="by far")
        following.send([_Bus(BusError("away")), _Bus(refusal)], b"{}")
        following.run()
        self.assertEqual(following.outcome(), (FAILED, ["away"]))
        [line] = self.output.getvalue().splitlines()
        self.assertEqual(json.loads(line)["reason"], "too-large")

    def test_refusal(self) -> None:
        """
        Of what a server refuses its event is told, which comes a little later.
        """
        following = Follow(
            self.tracker, self.view, self.inbox, Patience(1), self.clock.seconds
        )
        refusal = Receipt(heard=1, node="web9", reason="busy", detail="full")
        following.send([_Bus(refusal)], b"{}")
        told = event("rejected", "web9", "x", bus="http", reason="busy", detail="full")
        self.clock.callLater(0.5, self.inbox.put, told)
        following.run()
        self.assertEqual(following.outcome(), (FAILED, []))
        self.assertEqual(json.loads(self.output.getvalue()), told)

    def test_cancel(self) -> None:
        """
        Cancelling goes the way that the request went.
        """
        following = Follow(
            self.tracker, self.view, self.inbox, Patience(1), self.clock.seconds
        )
        one = _Bus(Receipt(), Receipt())
        following.send([one], b'{"x": 1}')
        following.cancel()
        self.assertEqual(one.messages, [{"x": 1}, {"node": "any", "cancel": "r"}])

    def test_plain(self) -> None:
        """
        In a pipe there is a line for each step, and no control sequence, whatever
        the events contain.
        """
        self.view = PlainView(self.tracker, self.output, self.errors)
        self.follow(
            event("accepted", alias="x\x1b[2J", missing=["eth9"], ignored=["colour"]),
            event("armed"),
            event("progress", elapsed=1, packets=1, bytes=2),
            completed(),
            event("stored", sink="local", url="file:///a.pcap"),
            event("rejected", node="web2\x07", reason="busy", detail="full\nhouse"),
        )
        self.view.summary(["a\x1bb"])
        text = self.output.getvalue()
        lines = text.splitlines()
        self.assertEqual(len(lines), 9, text)
        for words in (
            "web1 has no eth9",
            "web1 ignores colour",
            "eth0 (x\\x1b[2J): armed",
            "7 packets, 500 B",
            "local: file:///a.pcap",
            "web2\\x07: refused (busy): full\\nhouse",
            "1 capture, 1 done, 1 refused",
        ):
            self.assertIn(words, text)
        self.assertTrue(all(line.isprintable() for line in lines))


def table(tracker: Tracker, width: int = 80, height: int = 24) -> str:
    """
    What stands on a terminal of that size.
    """
    view = LiveView(tracker, io.StringIO(), io.StringIO())
    view.console = Console(
        file=io.StringIO(), width=width, height=height, color_system=None
    )
    with view.console.capture() as captured:
        view.console.print(view.table())
    return captured.get()


class TableTests(SynchronousTestCase):
    """
    The table on a terminal.
    """

    def fill(self, count: int) -> Tracker:
        """
        So many running captures, and a refusal.
        """
        clock = Clock()
        tracker = Tracker("r", clock.seconds)
        for number in range(count):
            node, id = f"node-with-a-long-name-{number}.example.net", str(number)
            tracker.take(event("accepted", node, id, alias="public"))
            tracker.take(event("armed", node, id))
            tracker.take(event("progress", node, id, packets=50, elapsed=1, rate=12))
        tracker.take(event("rejected", "web2", "x", reason="busy", detail="full"))
        return tracker

    def test_width(self) -> None:
        """
        No line is longer than the terminal, which shows more where it is wide.
        """
        tracker = self.fill(3)
        for width in 80, 150:
            lines = table(tracker, width).rstrip("\n").split("\n")
            self.assertEqual(len(lines), 5)
            self.assertLess(max(map(len, lines)), width)
            self.assertEqual("packets/s" in lines[0], width >= 100)
        self.assertIn("capturing", lines[1])
        self.assertIn("100 packets", lines[1])
        self.assertIn("refused", lines[4])

    def test_height(self) -> None:
        """
        Of too many captures those are shown that run, and the rest is counted.
        """
        tracker = self.fill(100)
        for number in range(90):
            tracker.take(event("failed", "x", str(number), stage="capture", reason="y"))
        lines = table(tracker, height=15).rstrip("\n").split("\n")
        self.assertLessEqual(len(lines), 15)
        self.assertEqual(sum("capturing" in line for line in lines), 10)
        self.assertIn("101 in all, 90 over, 1 refused", lines[-1])


class BusTests(SynchronousTestCase):
    """
    What all sources have in common.
    """

    def test_deliver(self) -> None:
        """
        Only what is an event is handed over.
        """

        class Source(bus.Source):
            def open(self, requestId: str, progress: bool) -> None:
                pass

            def read(self) -> None:
                pass

        inbox: queue.Queue[Any] = queue.Queue()
        source = Source(address.parse("redis://h/c"), Access(), inbox)
        for data in b"", b"\xff", b"[1]", b'{"event": 1}', b"[" * 100_000, b'"x"':
            self.assertIsNone(source.deliver(data))
        self.assertTrue(inbox.empty())
        source.deliver(json.dumps(event("armed")))
        self.assertEqual(inbox.get_nowait(), event("armed"))
