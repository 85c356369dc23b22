# See LICENSE for details.
"""
Tests for what all of L{pcapdaemon.publishers} have in common, against a clock.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from zope.interface.verify import verifyObject

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.events import Events
from pcapdaemon.interfaces import IEventObserver, IPublisher
from pcapdaemon.publishers import _publisher
from pcapdaemon.publishers._publisher import Item, Publisher, PublishError
from pcapdaemon.test.test_redis import ERROR, WARN, collectLog


class Bus(Publisher):
    """
    A publisher whose other side is the test.

    @ivar arrived: The events, as they arrived.
    @ivar sending: The batches that the test has to answer, and how.
    @ivar broken: What happens to all batches instead of being held.
    """

    name = "bus"
    most = 3
    patient = True
    held = False
    broken: Exception | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.arrived: list[dict[str, Any]] = []
        self.batches: list[list[str]] = []
        self.answer: Deferred[int] | None = None

    async def send(self, batch: Sequence[Item]) -> None:
        self.batches.append([item.id for item in batch])
        if self.broken is not None:
            raise self.broken
        count = len(batch)
        if self.held:
            self.answer = Deferred()
            count = await self.answer
        for item in batch[:count]:
            event = json.loads(item.data)
            if event.get("tags") == "poison":
                item.refusal = "poison"
                continue
            self.arrived.append(event)
            item.done = True
        if count < len(batch):
            raise PublishError("only some")


class _BusCase(SynchronousTestCase):
    """
    Tests with a bus.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.events = Events("node-a", lambda: 0)
        self.logged = collectLog(self)
        self.bus = self.make()
        self.bus.startService()

    def make(self, **settings: Any) -> Bus:
        """
        Make a bus that knows nothing of chance.
        """
        settings = {"backlog": 10, "jitter": lambda: 1.0, **settings}
        return Bus(self.clock, self.events, "the bus", **settings)

    def emit(self, *ids: str, event: str = "armed", **fields: Any) -> None:
        """
        Let something happen.
        """
        for id in ids:
            self.events.emit(event, id, {}, **fields)

    def ids(self) -> list[str]:
        """
        Of which captures events have arrived.
        """
        return [event["id"] for event in self.bus.arrived]

    def missed(self) -> dict[str, int]:
        """
        What arrived with a gap before it.
        """
        return {e["id"]: e["missed"] for e in self.bus.arrived if "missed" in e}

    def counts(self) -> tuple[int, int, int]:
        """
        Published, dropped, waiting.
        """
        return self.bus.published, self.bus.dropped, self.bus.waiting


class PublisherTests(_BusCase):
    """
    A bus that works, or not.
    """

    def test_interfaces(self) -> None:
        """
        It is what it says it is.
        """
        verifyObject(IPublisher, self.bus)
        verifyObject(IEventObserver, self.bus)
        verifyObject(IService, self.bus)

    def test_order(self) -> None:
        """
        Events of one turn go together, all in order, each batch when the one
        before it has arrived.
        """
        self.bus.held = True
        self.emit(*"abcd")
        self.clock.advance(0)
        self.emit("e")
        self.clock.advance(1)
        self.assertEqual(self.bus.batches, [["a", "b", "c"]])
        self.assertEqual(self.counts(), (0, 0, 5))
        assert self.bus.answer is not None
        self.bus.held = False
        self.bus.answer.callback(3)
        self.clock.advance(0)
        self.assertEqual(self.ids(), list("abcde"))
        self.assertEqual(self.counts(), (5, 0, 0))
        self.assertEqual(self.missed(), {})

    def test_rest(self) -> None:
        """
        What of a batch has not arrived comes before all else, after a pause.
        """
        self.bus.held = True
        self.emit(*"abcd")
        self.clock.advance(0)
        assert self.bus.answer is not None
        self.bus.held = False
        self.bus.answer.callback(1)
        self.clock.advance(0)
        self.assertEqual(self.ids(), ["a"])
        self.clock.advance(_publisher.FIRST)
        self.assertEqual(self.ids(), list("abcd"))
        # Once is nothing to talk about.
        self.assertEqual(self.logged(WARN, ERROR), [])

    def test_away(self) -> None:
        """
        A bus that is away is tried for ever, ever less often, and mentioned once a
        minute; when it is back everything arrives.
        """
        self.bus.broken = PublishError("away")
        self.emit(*"abcd")
        for _ in range(600):
            self.clock.advance(0.1)
        self.assertIn(len(self.bus.batches), range(13, 20))
        self.assertFalse(self.bus.connected)
        said = "cannot publish events to the bus, trying on: away"
        self.assertEqual(self.logged(WARN, ERROR), [said])
        self.bus.broken = None
        self.clock.pump([_publisher.LAST, 0, 0])
        self.assertEqual(self.ids(), list("abcd"))
        self.assertTrue(self.bus.connected)
        self.assertEqual(self.counts(), (4, 0, 0))

    def test_refused(self) -> None:
        """
        A bus that says no is an error at once, and tried even less often.
        """
        self.bus.broken = PublishError("no right", refused=True)
        self.emit("a")
        self.clock.advance(0)
        self.assertIn("no right", self.logged(ERROR)[-1])
        self.clock.pump([0.1] * 3000)
        self.assertLess(len(self.bus.batches), 20)

    def test_mistake(self) -> None:
        """
        So is one with a mistake of ours.
        """
        self.bus.broken = ZeroDivisionError()
        self.emit("a")
        self.clock.advance(0)
        self.assertIn("ZeroDivisionError", self.logged(ERROR)[-1])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.bus.broken = None
        self.clock.advance(1)
        self.assertEqual(self.ids(), ["a"])

    def test_asked(self) -> None:
        """
        It waits as long as the other side asks for, but not for ever.
        """
        self.bus.broken = PublishError("busy", delay=1e9)
        self.emit("a")
        self.clock.advance(0)
        self.bus.broken = None
        self.clock.advance(_publisher.LAST_ASKED - 1)
        self.assertEqual(self.ids(), [])
        self.clock.advance(1)
        self.assertEqual(self.ids(), ["a"])

    def test_full(self) -> None:
        """
        When too many wait the oldest go, are counted, and the next one that
        arrives says how many; that is said in the log once a minute.
        """
        self.bus.broken = PublishError("away")
        self.emit(*"abc")
        self.clock.advance(0)
        self.emit(*"defghijklmnop")
        self.assertEqual(self.counts(), (0, 6, 10))
        self.bus.broken = None
        self.clock.pump([1, 0, 0, 0, 0])
        self.assertEqual(self.ids(), list("ghijklmnop"))
        self.assertEqual(self.missed(), {"g": 6})
        self.assertEqual(self.counts(), (10, 6, 0))
        [said] = self.logged(ERROR)
        self.assertIn("the oldest are dropped", said)

    def test_fullWhileSending(self) -> None:
        """
        The gap is told where it is: what is being sent does not count, and is not
        dropped unless it comes back.
        """
        self.bus.held = True
        self.emit(*"abc")
        self.clock.advance(0)
        self.emit(*"defghijklmnop")
        self.assertEqual(self.counts(), (0, 3, 13))
        assert self.bus.answer is not None
        self.bus.held = False
        self.bus.answer.callback(3)
        self.clock.pump([0] * 5)
        self.assertEqual(self.ids(), list("abcghijklmnop"))
        self.assertEqual(self.missed(), {"g": 3})

    def test_large(self) -> None:
        """
        The bytes of a backlog have a bound, too.
        """
        self.bus.broken = PublishError("away")
        for id in "abcd":
            self.events.emit("armed", id, {"tags": "x" * 4 * _publisher.AVERAGE})
        self.assertEqual(self.counts(), (0, 2, 2))

    def test_poison(self) -> None:
        """
        What will never be taken is dropped, counted, told, and nothing waits for
        it.
        """
        self.emit("a")
        self.events.emit("armed", "b", {"tags": "poison"})
        self.emit(*"cde")
        self.clock.pump([0, 0])
        self.assertEqual(self.ids(), list("acde"))
        self.assertEqual(self.counts(), (4, 1, 0))
        self.assertEqual(self.missed(), {"d": 1})
        [said] = self.logged(ERROR)
        self.assertIn("an event of b cannot be published to the bus; so far 1", said)
        # And not again at once.
        self.events.emit("armed", "b", {"tags": "poison"})
        self.clock.advance(0)
        self.assertEqual(len(self.logged(ERROR)), 1)

    def test_longest(self) -> None:
        """
        What is too long for the other side does not get into the backlog.
        """
        self.bus.longest = 200
        self.events.emit("armed", "a", {"tags": "x" * 200})
        self.emit("b")
        self.clock.advance(0)
        self.assertEqual(self.missed(), {"b": 1})

    def test_apart(self) -> None:
        """
        Where parts of a batch may fail, no batch has two events of a capture.
        """
        self.bus.apart = True
        self.emit(*"abac")
        self.clock.pump([0, 0])
        self.assertEqual(self.bus.batches, [["a", "b"], ["a", "c"]])

    def test_text(self) -> None:
        """
        Whatever is in a request arrives as it was.
        """
        tags = 'ä"\\\n\x00\udc80\U0001f600'
        self.events.emit("armed", "a", {"tags": tags})
        self.clock.advance(0)
        self.assertEqual(self.bus.arrived[0]["tags"], tags)


class ProgressTests(_BusCase):
    """
    C{progress} is of the moment.
    """

    def progress(self, *seconds: float, id: str = "a") -> None:
        """
        Let a capture say how long it runs.
        """
        for elapsed in seconds:
            self.emit(id, event="progress", elapsed=elapsed)

    def test_off(self) -> None:
        """
        Unless it is asked for it does not go out, whoever watches otherwise.
        """
        self.progress(1, 2, 3)
        self.assertEqual(self.counts(), (0, 0, 0))

    def test_sparse(self) -> None:
        """
        It goes out as often as was asked for, of each capture.
        """
        bus = self.bus = self.make(progress=3, backlog=100)
        bus.startService()
        self.progress(1, 2, 3, 4, 5, 6, 7)
        self.progress(3.1, id="b")
        self.emit("a", "b", event="completed")
        self.clock.pump([0, 0])
        told = [(e["id"], e["elapsed"]) for e in bus.arrived if "elapsed" in e]
        self.assertEqual(told, [("a", 3), ("a", 6), ("b", 3.1)])
        self.assertEqual(bus._told, {})

    def test_gives(self) -> None:
        """
        It takes no room from what cannot be told again.
        """
        bus = self.bus = self.make(progress=1, backlog=20)
        bus.startService()
        bus.broken = PublishError("away")
        self.progress(*range(1, 6))
        self.emit(*"bcd")
        self.assertEqual(self.counts(), (0, 3, 5))
        bus.broken = None
        self.clock.pump([1, 0])
        self.assertEqual(self.missed(), {"b": 3})


class StopTests(_BusCase):
    """
    The end of a publisher.
    """

    def test_flush(self) -> None:
        """
        What waits goes out first, and what happens meanwhile.
        """
        self.bus.held = True
        self.emit(*"ab")
        self.clock.advance(0)
        stopped = self.bus.stopService()
        self.assertNoResult(stopped)
        self.emit("c")
        assert self.bus.answer is not None
        self.bus.held = False
        self.bus.answer.callback(2)
        self.clock.advance(0)
        self.successResultOf(stopped)
        self.assertEqual(self.ids(), list("abc"))
        self.emit("d")
        self.assertEqual(self.counts(), (3, 0, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_bounded(self) -> None:
        """
        It takes no longer than that, and what is left is counted and said.
        """
        self.bus.held = True
        self.emit(*"abcd")
        self.clock.advance(0)
        stopped = self.bus.stopService()
        self.clock.advance(self.bus.flush)
        self.successResultOf(stopped)
        self.assertEqual(self.counts(), (0, 4, 0))
        said = "4 events did not get to the bus before the end"
        self.assertEqual(self.logged(ERROR), [said])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing(self) -> None:
        """
        With nothing to say it stops at once.
        """
        self.successResultOf(self.bus.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stuck(self) -> None:
        """
        A connection that cannot be closed does not keep it.
        """
        self.patch(self.bus, "disconnect", Deferred)
        stopped = self.bus.stopService()
        self.assertNoResult(stopped)
        self.clock.advance(self.bus.flush)
        self.successResultOf(stopped)

    def test_meanwhile(self) -> None:
        """
        What happens while a connection is being closed gets lost neither where
        another publisher follows, nor uncounted where none does.
        """
        for follows in (True, False):
            self.clock.advance(0)
            old, self.bus = self.bus, self.make()
            sent = len(old.batches)
            closing: Deferred[None] = Deferred()
            self.patch(old, "disconnect", lambda closing=closing: closing)
            if follows:
                old.keep()
            stopped = old.stopService()
            self.emit("a", "b")
            self.clock.advance(1)
            self.assertEqual(len(old.batches), sent)
            closing.callback(None)
            self.successResultOf(stopped)
            self.bus.startService()
            if follows:
                self.bus.inherit(old)
                self.clock.advance(0)
                self.assertEqual(self.ids(), ["a", "b"])
            else:
                self.assertEqual((old.dropped, old.waiting), (2, 0))
            self.emit("c")
            self.assertEqual(old.waiting, 0)

    def test_inherit(self) -> None:
        """
        Another one goes on where it was, in the order in which things happened.
        """
        self.bus.broken = PublishError("away")
        self.emit(*"abcdefghijkl")
        self.clock.advance(0)
        old, new = self.bus, self.make()
        old.keep()
        self.successResultOf(old.stopService())
        new.startService()
        self.emit("m")
        new.inherit(old)
        self.bus = new
        self.clock.pump([0] * 5)
        self.assertEqual(self.ids(), list("defghijklm"))
        self.assertEqual(self.missed(), {"d": 3})
        self.assertEqual(self.counts(), (10, 3, 0))
        self.assertEqual((old.waiting, self.logged(WARN)), (0, []))
