# See LICENSE for details.
"""
Tests for L{pcapdaemon.spool}: what gets where, and when.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zope.interface.verify import verifyObject

from twisted.application.service import IService
from twisted.internet.defer import Deferred

from pcapdaemon.capture.recording import Recording
from pcapdaemon.delivery import Delivery
from pcapdaemon.interfaces import StoreError
from pcapdaemon.test.spooling import DAY, DOWN, SpoolTestCase, makeSealed
from pcapdaemon.testing import MemorySink


class PoisonedSink(MemorySink):
    """
    A sink that never takes what has a certain name.

    @ivar transient: What it says of this.
    """

    transient = True

    def store(self, recording: Recording) -> Deferred[str]:
        if "poison" in recording.filename:
            self.failures.append(StoreError("no", self.transient))
        return super().store(recording)


class WatchingSink(MemorySink):
    """
    A sink that remembers what it was given.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.seen: list[Recording] = []

    def store(self, recording: Recording) -> Deferred[str]:
        self.seen.append(recording)
        return super().store(recording)


class SpoolTests(SpoolTestCase):
    """
    What gets where, and when.
    """

    def test_interface(self) -> None:
        """It is a service."""
        verifyObject(IService, self.spool)

    def test_later(self) -> None:
        """
        What a sink would not take it gets a little later, unchanged, and it is
        told as ever; then it is nowhere else any more.
        """
        recording = self.add(alertid=7, customer="C", tags="t")
        self.assertEqual(self.spool.waiting, {"one": 1})
        self.assertEqual(self.spool.used, 2 * 4096)
        self.clock.advance(0.75)
        self.assertEqual(self.one.attempts, [])
        self.clock.advance(0.25)
        self.assertEqual(self.one.files, {recording.filename: b"pcap of abc"})
        self.assertEqual(self.two.attempts, [])
        [event] = self.observed.events
        self.assertEqual(
            {**event, "time": ""},
            {
                "event": "stored",
                "time": "",
                "node": "web1",
                "id": "abc",
                "alertid": 7,
                "customer": "C",
                "tags": "t",
                "sink": "one",
                "url": f"memory:{recording.filename}",
                "filename": recording.filename,
            },
        )
        self.assertEqual(self.names(), [])
        self.assertEqual((self.spool.waiting, self.spool.used), ({}, 0))

    def test_looksTheSame(self) -> None:
        """A sink cannot tell it from what comes directly."""
        sink = WatchingSink("one")
        self.spool.sinks = [sink]
        recording = self.add(tags="t", bucket="b", encryption=True)
        self.clock.advance(1)
        [again] = sink.seen
        self.assertEqual(again.plan.request.bucket, "b")
        self.assertEqual(again.plan, recording.plan)
        self.assertEqual(again.plan.tags, recording.plan.tags)
        self.assertEqual(again.size, recording.size)
        self.assertEqual(again.filename, recording.filename)
        self.assertEqual(again.drops, recording.drops)

    def test_restart(self) -> None:
        """
        After a restart everything goes out at once, the oldest first.
        """
        for id in ("b", "a", "c"):
            self.add(id)
            self.clock.advance(0.1)
        self.restart()
        self.assertEqual(self.stored(), [("b", "one"), ("a", "one"), ("c", "one")])
        self.assertEqual(self.names(), [])

    def test_oneAtATime(self) -> None:
        """
        A sink gets the next one when it has the one before; another sink does
        not wait for it.
        """
        for id in ("a", "b"):
            self.add(id, "one")
            self.add(id, "two")
        gates: list[Deferred[None]] = [Deferred(), Deferred()]
        self.one.gates.extend(gates)
        self.clock.advance(1)
        self.assertEqual(self.sent(self.one), ["a"])
        self.assertEqual(self.sent(self.two), ["a", "b"])
        gates[0].callback(None)
        self.assertEqual(self.sent(self.one), ["a", "b"])
        gates[1].callback(None)
        self.assertEqual(self.names(), [])

    def test_bothSinks(self) -> None:
        """A recording stays until all of its sinks have it."""
        recording = self.add("a", "one")
        self.successResultOf(self.spool.add(makeSealed(self, "a"), "two", DOWN))
        self.two.failures.append(DOWN)
        self.clock.advance(1)
        self.assertEqual(self.stored(), [("a", "one")])
        self.assertEqual(self.spool.waiting, {"two": 1})
        self.clock.advance(2)
        self.assertEqual(list(self.two.files), [recording.filename])
        self.assertEqual(self.names(), [])

    def test_outage(self) -> None:
        """
        A sink that is down is tried ever more seldom, once a minute in the end,
        and gets everything in order when it is back.
        """
        for id in "abc":
            self.add(id)
        self.one.failure = StoreError("refused", True)
        for attempts, pause in enumerate((1, 2, 4, 8, 16, 32), 1):
            self.clock.advance(pause)
            self.assertEqual(self.sent(self.one), ["a"] * attempts)
        self.one.failure = None
        self.clock.advance(60)
        self.assertEqual(self.stored(), [("b", "one"), ("c", "one")])
        self.clock.advance(4)
        self.assertEqual(self.stored()[2:], [("a", "one")])

    def test_longOutage(self) -> None:
        """
        However long it lasts, a minute after its end the first one gets through,
        and all of them within ten minutes.
        """
        for number in range(50):
            self.add(f"id{number}")
        self.one.failure = StoreError("refused", True)
        for _ in range(4 * 60):
            self.clock.advance(60)
        self.assertLess(len(self.one.attempts), 4 * 60 + 10)
        self.assertEqual(len(self.clock.getDelayedCalls()), 2)
        self.one.failure = None
        self.clock.advance(60)
        self.assertGreater(len(self.stored()), 0)
        for _ in range(10):
            self.clock.advance(60)
        self.assertEqual(len(set(self.stored())), 50)
        self.assertEqual(len(self.stored()), 50)

    def test_poison(self) -> None:
        """
        One that never gets through does not keep others from it, whether it is
        refused for good or takes the connection down each time.
        """
        sink = PoisonedSink("one")
        self.spool.sinks = [sink]
        for transient in (True, False):
            sink.transient = transient
            self.add(f"poison{transient}")
            for number in range(20):
                self.add(f"id{number}{transient}")
            for _ in range(10):
                self.clock.advance(60)
            self.assertEqual(len(self.stored()), 20)
            tries = [id for id in self.sent(sink) if id.startswith("poison")]
            self.assertLess(len(tries), 16)
            self.observed.events.clear()
            sink.attempts.clear()

    def test_permanent(self) -> None:
        """
        What was refused for good is tried again, after a minute and then ever
        more seldom, every ten minutes in the end.
        """
        wrong = StoreError("bad credentials", False)
        self.one.failure = wrong
        self.add("a", error=wrong)
        times = []
        attempts = 0
        for second in range(3000):
            self.clock.advance(1)
            if len(self.one.attempts) > attempts:
                attempts = len(self.one.attempts)
                times.append(second + 1)
        self.assertEqual(times, [60, 180, 420, 900, 1500, 2100, 2700])

    def test_asked(self) -> None:
        """
        A sink that asks for time gets it, for everything that waits for it; but
        not more than ten minutes.
        """
        self.add("a", error=StoreError("busy", True, 30.0))
        self.add("b")
        self.clock.advance(29)
        self.assertEqual(self.one.attempts, [])
        self.one.failures.append(StoreError("busy", True, DAY))
        self.clock.advance(1)
        self.assertEqual(self.sent(self.one), ["a"])
        self.clock.advance(599)
        self.assertEqual(self.sent(self.one), ["a"])
        self.clock.advance(1)
        self.assertEqual(self.sent(self.one), ["a", "a", "b"])

    def test_spread(self) -> None:
        """A fleet does not come back at the same moment."""
        self.spread = 0.5
        self.add()
        self.clock.advance(0.75)
        self.assertEqual(self.stored(), [("abc", "one")])

    def test_unexpected(self) -> None:
        """An error of the sink's own is logged, and the recording stays."""
        self.add()
        self.one.failures.append(KeyError("bug"))
        self.clock.advance(1)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(self.spool.waiting, {"one": 1})
        self.clock.advance(120)
        self.assertEqual(self.stored(), [("abc", "one")])

    def test_workFails(self) -> None:
        """So is one of this machine's, and nothing spins."""
        self.add()
        calls = []

        def work(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
            calls.append(function)
            raise MemoryError

        self.spool._work = work
        self.clock.advance(1)
        self.assertEqual(len(calls), 1)
        self.assertEqual(len(self.flushLoggedErrors(MemoryError)), 1)
        self.spool._work = self.work
        self.clock.advance(2)
        self.assertEqual(self.stored(), [("abc", "one")])


class SinkTests(SpoolTestCase):
    """
    Sinks that come and go.
    """

    def test_gone(self) -> None:
        """
        What waits for a sink that is not configured any more stays, and goes
        out when it is again.
        """
        self.add()
        self.spool.sinks = [self.two]
        self.restartWithout()
        self.assertEqual(self.spool.waiting, {"one": 1})
        self.spool.sinks = [self.one]
        self.assertEqual(self.stored(), [("abc", "one")])

    def restartWithout(self) -> None:
        """Restart, with no sink at first, and wait for a day."""
        self.end(self.spool)
        self.spool = self.makeSpool()
        self.spool.startService()
        self.addCleanup(self.end, self.spool)
        self.clock.advance(DAY)
        self.assertEqual(self.observed.events, [])

    def test_mended(self) -> None:
        """
        A sink that is configured anew gets what waits at once: what was wrong
        may have been mended.
        """
        self.one.failure = wrong = StoreError("bad credentials", False)
        self.add("a", error=wrong)
        self.clock.advance(60)
        self.spool.sinks = [self.one, self.two]
        self.assertEqual(len(self.one.attempts), 1)
        new = MemorySink("one")
        self.spool.sinks = [new, self.two]
        self.assertEqual(self.sent(new), ["a"])
        self.assertEqual(self.names(), [])


class TogetherTests(SpoolTestCase):
    """
    A L{Delivery} with a spool.
    """

    def test_outage(self) -> None:
        """
        An outage of a minute during which there are fifty captures loses none,
        and doubles none, with a restart in its midst; the memory is free soon.
        """
        delivery = Delivery(
            [self.one, self.two], self.events, self.clock, lambda: 1.0, self.spool
        )
        self.one.failure = StoreError("refused", True)
        files = {}
        for number in range(50):
            if number == 25:
                delivery.close(0)
                self.restart()
                delivery = Delivery(
                    [self.one, self.two],
                    self.events,
                    self.clock,
                    lambda: 1.0,
                    self.spool,
                )
            content = b"pcap %d" % number
            recording = makeSealed(self, f"id{number}", content)
            files[recording.filename] = content
            delivered = delivery.deliver(recording)
            self.clock.advance(1.2)
            self.successResultOf(delivered)
            recording.close()
        self.assertEqual(self.one.files, {})
        self.one.failure = None
        for _ in range(12):
            self.clock.advance(60)
        for sink in (self.one, self.two):
            self.assertEqual(sink.files, files)
        self.assertEqual(len(self.stored()), 100)
        self.assertEqual(len(set(self.stored())), 100)
        self.assertEqual(
            [e["lost"] for e in self.observed.named("failed")], [False] * 50
        )
        self.assertEqual(self.names(), [])
