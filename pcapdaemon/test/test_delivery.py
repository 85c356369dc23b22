# See LICENSE for details.
"""
Tests for L{pcapdaemon.delivery}.
"""

from __future__ import annotations

from typing import cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.capture.recording import Recording
from pcapdaemon.delivery import ALONE, WITH_SPOOL, Delivery, backoff
from pcapdaemon.events import Events
from pcapdaemon.interfaces import StoreError
from pcapdaemon.spool import Spool
from pcapdaemon.test.fixtures import EPOCH, makeRecording
from pcapdaemon.testing import EventList, MemorySink


class RaisingSink(MemorySink):
    """
    A sink that does not even return a Deferred.
    """

    def store(self, recording: Recording) -> Deferred[str]:
        raise StoreError("no", False)


class MemorySpool:
    """
    As much of a spool as L{Delivery} needs.

    @ivar added: Identifier, sink and reason of each recording that was added.
    @ivar refusal: What every addition fails with, as long as it is set.
    @ivar gate: What every addition waits for, as long as it is set.
    @ivar running: Whether it takes anything.
    """

    running = 1
    refusal: Exception | None = None
    gate: Deferred[None] | None = None

    def __init__(self) -> None:
        self.added: list[tuple[str, str, str]] = []

    def add(self, recording: Recording, sink: str, error: StoreError) -> Deferred[None]:
        """See L{Spool.add}."""
        self.added.append((recording.plan.id, sink, str(error)))
        if self.refusal is not None:
            return fail(self.refusal)
        return self.gate or succeed(None)


class _Tests(SynchronousTestCase):
    """
    Tests that have two sinks.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.spread = 1.0
        events = Events("web1", lambda: EPOCH)
        self.observed = EventList()
        events.add(self.observed)
        self.one, self.two = MemorySink("one"), MemorySink("two")
        self.delivery = Delivery(
            [self.one, self.two], events, self.clock, jitter=lambda: self.spread
        )
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.recording = makeRecording(self, alertid=7)

    def outcomes(self) -> list[tuple[str, str]]:
        """What was said of which sink, in order."""
        return [(event["event"], event["sink"]) for event in self.observed.events]

    def failures(self) -> list[tuple[str, str, int, bool]]:
        """The reason of each failure, its sink, attempts, and whether it is lost."""
        return [
            (event["reason"], event["sink"], event["attempts"], event["lost"])
            for event in self.observed.named("failed")
        ]


class DeliveryTests(_Tests):
    """
    L{Delivery} as long as nothing is tried twice.
    """

    def test_stored(self) -> None:
        """Every sink gets the file, and says where it is."""
        self.successResultOf(self.delivery.deliver(self.recording))
        filename = self.recording.filename
        for sink in (self.one, self.two):
            self.assertEqual(sink.files, {filename: b"pcap"})
        self.assertEqual(self.outcomes(), [("stored", "one"), ("stored", "two")])
        event = dict(self.observed.events[0])
        del event["time"]
        self.assertEqual(
            event,
            {
                "event": "stored",
                "node": "web1",
                "id": "abc",
                "alertid": 7,
                "sink": "one",
                "url": f"memory:{filename}",
                "filename": filename,
            },
        )

    def test_noSinks(self) -> None:
        """Without a sink a recording is lost, and that is said."""
        self.delivery.sinks = ()
        self.successResultOf(self.delivery.deliver(self.recording))
        [failed] = self.observed.named("failed")
        self.assertEqual((failed["reason"], failed["lost"]), ("no sink is on", True))

    def test_failed(self) -> None:
        """One that fails hurts no other, and its reason is told."""
        self.one.failure = StoreError("no such bucket", False)
        self.successResultOf(self.delivery.deliver(self.recording))
        self.assertEqual(self.outcomes(), [("failed", "one"), ("stored", "two")])
        event = dict(self.observed.events[0])
        del event["time"]
        self.assertEqual(
            event,
            {
                "event": "failed",
                "node": "web1",
                "id": "abc",
                "alertid": 7,
                "stage": "store",
                "interface": "eth0",
                "alias": "main",
                "sink": "one",
                "filename": self.recording.filename,
                "reason": "no such bucket",
                "attempts": 1,
                "lost": True,
            },
        )

    def test_raises(self) -> None:
        """Neither does one that raises instead."""
        self.delivery.sinks = [RaisingSink("one"), self.two]
        self.successResultOf(self.delivery.deliver(self.recording))
        self.assertEqual(self.outcomes(), [("failed", "one"), ("stored", "two")])

    def test_unexpected(self) -> None:
        """An error that is no matter of storage is logged as well."""
        self.one.failure = KeyError("bug")
        self.successResultOf(self.delivery.deliver(self.recording))
        self.assertEqual(self.outcomes(), [("failed", "one"), ("stored", "two")])
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_slow(self) -> None:
        """One that takes its time delays no other, but the end."""
        gate: Deferred[None] = Deferred()
        self.one.gates.append(gate)
        delivered = self.delivery.deliver(self.recording)
        self.assertEqual(self.outcomes(), [("stored", "two")])
        self.assertNoResult(delivered)
        gate.callback(None)
        self.successResultOf(delivered)
        self.assertEqual(self.outcomes(), [("stored", "two"), ("stored", "one")])

    def test_sameName(self) -> None:
        """Two sinks of one kind are two."""
        self.delivery.sinks = [MemorySink("one"), MemorySink("one")]
        self.successResultOf(self.delivery.deliver(self.recording))
        self.assertEqual(self.outcomes(), [("stored", "one")] * 2)

    def test_replaced(self) -> None:
        """Other sinks are for the next recording."""
        gate: Deferred[None] = Deferred()
        self.one.gates.append(gate)
        delivered = self.delivery.deliver(self.recording)
        self.delivery.sinks = [MemorySink("three")]
        self.successResultOf(self.delivery.deliver(makeRecording(self, "def")))
        gate.callback(None)
        self.successResultOf(delivered)
        self.assertEqual(
            self.outcomes(), [("stored", "two"), ("stored", "three"), ("stored", "one")]
        )

    def test_abandon(self) -> None:
        """
        What is given up is told as lost, once, whatever comes of it later.
        """
        gates: list[Deferred[None]] = [Deferred(), Deferred()]
        self.one.gates.extend(gates)
        first = self.delivery.deliver(self.recording)
        second = self.delivery.deliver(makeRecording(self, "def"))
        self.observed.events.clear()
        self.delivery.abandon("too late")
        self.delivery.abandon("far too late")
        self.assertEqual(
            [(event["id"], event["reason"]) for event in self.observed.events],
            [("abc", "too late"), ("def", "too late")],
        )
        gates[0].callback(None)
        gates[1].errback(StoreError("reset", True))
        self.assertEqual(self.outcomes(), [("failed", "one")] * 2)
        # Until then the sink needed the recording.
        self.successResultOf(first)
        self.successResultOf(second)

    def test_abandonNothing(self) -> None:
        """What has arrived is not given up."""
        self.successResultOf(self.delivery.deliver(self.recording))
        self.observed.events.clear()
        self.delivery.abandon("too late")
        self.assertEqual(self.observed.events, [])


class BackoffTests(SynchronousTestCase):
    """
    Tests for L{backoff}.
    """

    def test_doubles(self) -> None:
        """Pauses double up to the longest one, however many there were."""
        pauses = [backoff(n, 1.0, 60.0, 1.0, None) for n in (1, 2, 3, 6, 7, 5000)]
        self.assertEqual(pauses, [1, 2, 4, 32, 60, 60])

    def test_spread(self) -> None:
        """Up to a half of a pause is left to chance."""
        self.assertEqual(backoff(3, 1.0, 60.0, 0.0, None), 2)
        self.assertEqual(backoff(3, 1.0, 60.0, 0.5, None), 3)

    def test_asked(self) -> None:
        """What the other side asks for is waited, as long as it is bearable."""
        self.assertEqual(backoff(1, 1.0, 60.0, 1.0, 30.0), 30)
        self.assertEqual(backoff(6, 1.0, 60.0, 1.0, 30.0), 32)
        self.assertEqual(backoff(1, 1.0, 60.0, 1.0, 86400.0), 60)


class RetryTests(_Tests):
    """
    L{Delivery} without a spool.
    """

    def test_transient(self) -> None:
        """
        What may succeed later is tried again, after ever longer pauses; only
        the log tells of it when it then does.
        """
        self.one.failures.extend([StoreError("reset", True)] * 3)
        with capturedLogs() as logged:
            delivered = self.delivery.deliver(self.recording)
        [warning] = [formatEvent(event) for event in logged]
        self.assertIn(f"one: {self.recording.filename} not stored", warning)
        self.assertIn("again in 1.0 s: reset", warning)
        for attempts, pause in ((1, 1), (2, 2), (3, 4)):
            self.clock.advance(pause - 0.25)
            self.assertEqual(len(self.one.attempts), attempts)
            self.assertNoResult(delivered)
            self.clock.advance(0.25)
            self.assertEqual(len(self.one.attempts), attempts + 1)
        self.successResultOf(delivered)
        self.assertEqual(self.outcomes(), [("stored", "two"), ("stored", "one")])
        self.assertEqual(self.two.attempts, [self.recording.filename])

    def test_permanent(self) -> None:
        """What cannot succeed is not tried again, also at a later attempt."""
        self.one.failures.append(StoreError("reset", True))
        self.two.failure = StoreError("bad credentials", False)
        delivered = self.delivery.deliver(self.recording)
        self.assertEqual(self.failures(), [("bad credentials", "two", 1, True)])
        self.one.failure = StoreError("no such bucket", False)
        self.clock.advance(1)
        self.successResultOf(delivered)
        self.assertEqual(self.failures()[1:], [("no such bucket", "one", 2, True)])

    def test_tries(self) -> None:
        """
        After so many attempts it is lost, but not within a minute, whatever
        chance makes of the pauses.
        """
        for jitter in (0.0, 1.0):
            self.spread = jitter
            self.one.failure = StoreError("refused", True)
            began = self.clock.seconds()
            delivered = self.delivery.deliver(self.recording)
            while not delivered.called:
                [call] = self.clock.getDelayedCalls()
                self.clock.advance(call.getTime() - self.clock.seconds())
            self.assertGreater(self.clock.seconds() - began, 60)
            self.assertEqual(self.failures(), [("refused", "one", ALONE.tries, True)])
            self.observed.events.clear()

    def test_seconds(self) -> None:
        """
        However few the attempts, none begins after so many seconds.
        """
        gates: list[Deferred[None]] = [Deferred(), Deferred()]
        self.one.gates.extend(gates)
        delivered = self.delivery.deliver(self.recording)
        self.clock.advance(ALONE.seconds - 1)
        gates[0].errback(StoreError("timeout", True))
        self.clock.advance(1)
        self.assertEqual(len(self.one.attempts), 2)
        gates[1].errback(StoreError("timeout", True))
        self.successResultOf(delivered)
        self.assertEqual(self.failures(), [("timeout", "one", 2, True)])

    def test_asked(self) -> None:
        """The other side is given the time that it asks for."""
        self.one.failures.append(StoreError("busy", True, 20.0))
        delivered = self.delivery.deliver(self.recording)
        self.clock.advance(19.75)
        self.assertEqual(len(self.one.attempts), 1)
        self.clock.advance(0.25)
        self.successResultOf(delivered)

    def test_spread(self) -> None:
        """Two daemons do not come back at the same moment."""
        self.spread = 0.5
        self.one.failures.append(StoreError("busy", True))
        delivered = self.delivery.deliver(self.recording)
        self.clock.advance(0.75)
        self.successResultOf(delivered)

    def test_replaced(self) -> None:
        """
        The next attempt goes to the sink that has the name by then; without one
        it is lost.
        """
        self.one.failure = StoreError("refused", True)
        first = self.delivery.deliver(self.recording)
        new = MemorySink("one")
        self.delivery.sinks = [new, self.two]
        self.clock.advance(1)
        self.successResultOf(first)
        self.assertEqual(list(new.files), [self.recording.filename])
        new.failure = StoreError("refused again", True)
        second = self.delivery.deliver(makeRecording(self, "def"))
        self.delivery.sinks = []
        self.clock.advance(1)
        self.successResultOf(second)
        self.assertEqual(self.failures(), [("refused again", "one", 1, True)])

    def test_close(self) -> None:
        """
        When there is not much time left, what waits is tried at once, and again.
        """
        self.one.failures.extend([StoreError("busy", True, 60.0)] * 2)
        delivered = self.delivery.deliver(self.recording)
        self.delivery.close(5.0)
        self.assertEqual(len(self.one.attempts), 2)
        self.assertNoResult(delivered)
        self.clock.advance(60)
        self.successResultOf(delivered)
        self.assertEqual(self.failures(), [])

    def test_abandon(self) -> None:
        """What waits for another attempt is lost when there is no time left."""
        self.one.failure = StoreError("refused", True)
        delivered = self.delivery.deliver(self.recording)
        self.delivery.abandon("too late")
        self.successResultOf(delivered)
        self.assertEqual(self.failures(), [("too late: refused", "one", 1, True)])
        self.assertEqual(len(self.one.attempts), 1)


class SpoolingTests(_Tests):
    """
    L{Delivery} with a spool.
    """

    def setUp(self) -> None:
        super().setUp()
        self.spool = MemorySpool()
        self.delivery.spool = cast(Spool, self.spool)

    def test_transient(self) -> None:
        """
        What does not succeed soon goes to the spool, and the memory is free.
        """
        self.one.failure = StoreError("refused", True)
        delivered = self.delivery.deliver(self.recording)
        self.assertEqual(self.spool.added, [])
        self.clock.advance(1)
        self.assertEqual(self.spool.added, [("abc", "one", "refused")])
        self.successResultOf(delivered)
        self.assertEqual(self.failures(), [("refused", "one", WITH_SPOOL.tries, False)])

    def test_permanent(self) -> None:
        """
        What cannot succeed goes there at once: somebody may mend it.
        """
        self.one.failure = StoreError("bad credentials", False)
        self.successResultOf(self.delivery.deliver(self.recording))
        self.assertEqual(self.spool.added, [("abc", "one", "bad credentials")])
        self.assertEqual(self.failures(), [("bad credentials", "one", 1, False)])
        self.assertEqual(self.outcomes(), [("failed", "one"), ("stored", "two")])

    def test_asked(self) -> None:
        """So does what somebody wants tried much later only."""
        self.one.failure = StoreError("busy", True, 30.0)
        self.successResultOf(self.delivery.deliver(self.recording))
        self.assertEqual(self.spool.added, [("abc", "one", "busy")])

    def test_recovers(self) -> None:
        """What succeeds soon does not."""
        self.one.failures.append(StoreError("reset", True))
        delivered = self.delivery.deliver(self.recording)
        self.clock.advance(1)
        self.successResultOf(delivered)
        self.assertEqual(self.spool.added, [])
        self.assertEqual(self.outcomes(), [("stored", "two"), ("stored", "one")])

    def test_refused(self) -> None:
        """What the spool does not take either is lost, for both reasons."""
        self.one.failure = StoreError("refused", False)
        self.spool.refusal = StoreError("not spooled: full", True)
        self.successResultOf(self.delivery.deliver(self.recording))
        self.assertEqual(
            self.failures(), [("refused; not spooled: full", "one", 1, True)]
        )

    def test_gone(self) -> None:
        """What has no sink any more waits until it has one again."""
        self.one.failure = StoreError("refused", True)
        delivered = self.delivery.deliver(self.recording)
        self.delivery.sinks = []
        self.clock.advance(1)
        self.successResultOf(delivered)
        self.assertEqual(self.spool.added, [("abc", "one", "refused")])

    def test_needed(self) -> None:
        """The recording is needed until the spool has it."""
        self.one.failure = StoreError("refused", False)
        self.spool.gate = Deferred()
        delivered = self.delivery.deliver(self.recording)
        self.assertNoResult(delivered)
        self.assertEqual(self.failures(), [])
        self.spool.gate.callback(None)
        self.successResultOf(delivered)
        self.assertEqual(len(self.failures()), 1)

    def test_close(self) -> None:
        """
        When there is not much time left, what waits goes to the spool at once,
        what is under way a little later, and what comes then is tried once.
        """
        gate: Deferred[None] = Deferred()
        self.one.failures.append(StoreError("reset", True))
        self.two.gates.append(gate)
        delivered = self.delivery.deliver(self.recording)
        self.delivery.close(5.0)
        self.assertEqual(self.spool.added, [("abc", "one", "reset")])
        self.clock.advance(4.75)
        self.assertEqual(len(self.spool.added), 1)
        self.clock.advance(0.25)
        self.assertEqual(self.spool.added[1:], [("abc", "two", "cut off")])
        self.successResultOf(delivered)
        self.one.failure = StoreError("refused", True)
        late = self.delivery.deliver(makeRecording(self, "def"))
        self.clock.advance(0)
        self.successResultOf(late)
        self.assertEqual(self.spool.added[2:], [("def", "one", "refused")])
        self.assertEqual(self.observed.named("stored")[0]["sink"], "two")

    def test_closeInTime(self) -> None:
        """What ends in time is stored and not in the spool."""
        gate: Deferred[None] = Deferred()
        self.one.gates.append(gate)
        delivered = self.delivery.deliver(self.recording)
        self.delivery.close(5.0)
        self.clock.advance(4)
        gate.callback(None)
        self.successResultOf(delivered)
        self.assertEqual(self.outcomes(), [("stored", "two"), ("stored", "one")])
        self.assertEqual(self.spool.added, [])

    def test_abandon(self) -> None:
        """What the spool does not have in time is said to be lost, once."""
        self.one.failure = StoreError("refused", False)
        self.spool.gate = Deferred()
        delivered = self.delivery.deliver(self.recording)
        self.delivery.abandon("too late")
        self.spool.gate.callback(None)
        self.successResultOf(delivered)
        self.assertEqual(self.failures(), [("too late: refused", "one", 1, True)])
