# See LICENSE for details.
"""
Tests for L{pcapdaemon.capture.capture}: how captures end, and what they leave.
"""

from __future__ import annotations

import hashlib
from typing import Any

import attrs
from zope.interface.verify import verifyObject

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.capture.budget import LEAST_RING
from pcapdaemon.capture.capture import BUSY_DRAIN, SETTLE, UNSEEN
from pcapdaemon.events import timestamp
from pcapdaemon.interfaces import (
    CaptureError,
    Drained,
    PrivilegeError,
    Stop,
)
from pcapdaemon.test import pcapfile
from pcapdaemon.test.fixtures import (
    CAPACITY,
    EPOCH,
    RECORD,
    CaptureBench,
    makeBench,
    numbers,
)
from pcapdaemon.testing import MemoryCaptureSystem

#: So long may a limit of time be overdue.
TOLERANCE = 0.05


class _Tests(SynchronousTestCase):
    """
    Tests that have a bench.
    """

    def setUp(self) -> None:
        self.bench = makeBench(self)

    def content(self, bench: CaptureBench | None = None) -> bytes:
        """The one file that was delivered."""
        [content] = (bench or self.bench).recordings.values()
        return content

    def assertStopped(
        self, stop: str, packets: int, bench: CaptureBench | None = None
    ) -> None:
        """
        The one capture ended for that reason, and holds the first packets.
        """
        bench = bench or self.bench
        completed = bench.event("completed")
        self.assertEqual((completed["stop"], completed["packets"]), (stop, packets))
        self.assertEqual(numbers(self.content(bench)), list(range(packets)))


class CountedLimitTests(_Tests):
    """
    Packets and bytes.
    """

    def test_packets(self) -> None:
        """So many packets are taken and not one more, though more wait."""
        self.bench.start(packets=5)
        self.bench.receive(0, 9)
        self.assertStopped(Stop.PACKETS, 5)

    def test_packetsAcrossDrains(self) -> None:
        """Packets count from drain to drain."""
        self.bench.start(packets=5)
        for number in range(0, 6, 2):
            self.assertNotIn("completed", self.bench.names())
            self.bench.receive(number, number + 2)
        self.assertStopped(Stop.PACKETS, 5)

    def test_bytes(self) -> None:
        """The packet with which the file reaches the limit is the last one."""
        for size, packets in (
            (1, 1),
            (24 + RECORD, 1),
            (24 + 3 * RECORD, 3),
            (24 + 3 * RECORD + 1, 4),
        ):
            bench = makeBench(self)
            bench.start(size=size)
            bench.receive(0, 9)
            self.assertStopped(Stop.BYTES, packets, bench)
            self.assertEqual(bench.event("completed")["bytes"], 24 + packets * RECORD)

    def test_bytesAcrossDrains(self) -> None:
        """Bytes count from drain to drain, those in a buffer too."""
        self.bench.start(size=24 + 100 * RECORD)
        for number in range(0, 99, 9):
            self.bench.receive(number, number + 9)
        self.assertNotIn("completed", self.bench.names())
        self.bench.receive(99, 110)
        self.assertStopped(Stop.BYTES, 100)

    def test_bothAtOnce(self) -> None:
        """Where one packet reaches both limits, the file ends with it."""
        self.bench.start(packets=3, size=24 + 3 * RECORD)
        self.bench.receive(0, 9)
        self.assertStopped(Stop.PACKETS, 3)

    def test_finalDrain(self) -> None:
        """
        A limit that is reached by what the ring held at the stop is exact, and
        the reason for the end.
        """
        limits: tuple[tuple[str, dict[str, Any]], ...] = (
            (Stop.PACKETS, {"packets": 3}),
            (Stop.BYTES, {"size": 24 + 3 * RECORD}),
        )
        for stop, limit in limits:
            bench = makeBench(self)
            plan = bench.start(**limit)
            bench.send(0, 5)
            bench.captures.cancel(plan.id)
            bench.settle()
            self.assertStopped(stop, 3, bench)

    def test_drainUnderWay(self) -> None:
        """
        The packets of a drain that was still under way at the stop count before
        the last drain begins.
        """
        self.bench.draining.late = True
        plan = self.bench.start(packets=5)
        self.bench.receive(0, 3)
        self.bench.send(3, 9)
        self.bench.captures.cancel(plan.id)
        self.bench.settle()
        self.assertNotIn("completed", self.bench.names())
        self.bench.draining.release()
        self.assertStopped(Stop.PACKETS, 5)

    def test_limitUnderWay(self) -> None:
        """
        A drain that is under way at the stop and reaches the limit is the last.
        """
        self.bench.draining.late = True
        plan = self.bench.start(packets=3)
        self.bench.receive(0, 9)
        self.bench.captures.cancel(plan.id)
        self.bench.draining.release()
        self.bench.settle()
        self.assertStopped(Stop.PACKETS, 3)


class TimedLimitTests(_Tests):
    """
    C{timeout} and C{duration}.
    """

    def assertEnds(self, after: float) -> None:
        """
        The capture goes on until just before that many seconds have passed
        since now, and stops then.
        """
        reactor = self.bench.reactor
        due = self.bench.clock() + after
        reactor.advance(after - 0.001)
        self.assertNotEqual(reactor.getReaders(), [])
        reactor.pump([TOLERANCE / 10] * 10)
        self.assertEqual(reactor.getReaders(), [])
        self.bench.settle()
        finished = self.bench.event("completed")["finished"]
        self.assertLessEqual(timestamp(due), finished)
        self.assertLessEqual(finished, timestamp(due + TOLERANCE))

    def test_timeout(self) -> None:
        """Without a packet the idle limit ends a capture that holds nothing."""
        self.bench.start(timeout=5.0)
        self.assertEnds(5)
        self.assertEqual(self.bench.event("completed")["stop"], Stop.TIMEOUT)
        self.assertEqual(self.bench.event("completed")["packets"], 0)

    def test_timeoutIsPutOff(self) -> None:
        """The idle limit begins anew with each packet."""
        self.bench.start(timeout=5.0)
        for number in range(3):
            self.bench.reactor.advance(4)
            self.bench.receive(number, number + 1)
        self.assertEnds(5)
        self.assertStopped(Stop.TIMEOUT, 3)

    def test_timeoutSinceArmed(self) -> None:
        """The time that opening the device took does not count."""
        self.bench.opening.held = True
        self.bench.start(timeout=5.0, duration=7.0)
        self.bench.reactor.advance(100)
        self.bench.opening.release()
        self.assertEnds(5)
        self.assertEqual(
            self.bench.event("completed")["started"], timestamp(EPOCH + 100)
        )

    def test_timeoutDuringDrain(self) -> None:
        """
        Packets that wait for a thread when the idle limit is due put it off: it
        counts from when they were seen.
        """
        self.bench.start(timeout=5.0)
        self.bench.reactor.advance(4)
        self.bench.draining.held = True
        self.bench.receive(0, 1)
        self.bench.reactor.advance(2)
        self.bench.draining.release()
        self.assertEqual(len(self.bench.reactor.getReaders()), 1)
        self.assertEnds(3)
        self.assertStopped(Stop.TIMEOUT, 1)

    def test_duration(self) -> None:
        """The duration ends a capture to which packets still come."""
        self.bench.start(timeout=1.0, duration=3.0)
        for number in range(5):
            self.bench.reactor.advance(0.5)
            self.bench.receive(number, number + 1)
        self.assertEnds(0.5)
        self.assertStopped(Stop.DURATION, 5)

    def test_durationFlood(self) -> None:
        """
        What came before the time was over is taken, and nothing that came
        after.
        """
        self.bench.start(duration=3.0)
        self.bench.reactor.advance(2.9)
        self.bench.send(0, 50)
        self.bench.reactor.advance(0.1)
        self.bench.send(50, 60)
        self.bench.settle()
        self.assertStopped(Stop.DURATION, 50)


class EndTests(_Tests):
    """
    Other ends.
    """

    def test_cancelled(self) -> None:
        """
        What is in the ring at the stop is in the file; what comes later is not.
        """
        plan = self.bench.start()
        self.bench.receive(0, 3)
        self.bench.send(3, 6)
        self.assertTrue(self.bench.captures.cancel(plan.id))
        self.bench.send(6, 9)
        self.bench.settle()
        self.assertStopped(Stop.CANCELLED, 6)

    def test_twice(self) -> None:
        """The first reason to stop stands, and there is one result."""
        plan = self.bench.start(duration=SETTLE / 2)
        self.bench.receive(0, 1)
        self.bench.captures.cancel(plan.id)
        self.bench.captures.stopService()
        self.bench.settle()
        self.assertStopped(Stop.CANCELLED, 1)

    def test_duringDrain(self) -> None:
        """A stop waits for the drain that is under way, then takes the rest."""
        self.bench.draining.late = True
        plan = self.bench.start()
        self.bench.receive(0, 3)
        self.bench.send(3, 5)
        self.bench.captures.cancel(plan.id)
        self.bench.reactor.advance(10)
        self.assertNotIn("completed", self.bench.names())
        self.assertFalse(self.bench.system.handles[0].closed)
        self.bench.draining.release()
        self.assertStopped(Stop.CANCELLED, 5)

    def test_lost(self) -> None:
        """A device that goes away ends its capture with what it holds."""
        self.bench.start()
        self.bench.receive(0, 2)
        self.bench.send(2, 4)
        self.bench.system.removeDevice("eth0")
        self.bench.pump()
        self.bench.settle()
        self.assertStopped(Stop.INTERFACE_LOST, 4)

    def test_lostWhileIdle(self) -> None:
        """So does one that brought nothing."""
        self.bench.start()
        [reader] = self.bench.reactor.getReaders()
        self.bench.system.setDown("eth0")
        self.bench.pump()
        self.bench.settle()
        self.assertEqual(self.bench.event("completed")["stop"], Stop.INTERFACE_LOST)
        # To one that is over that means nothing.
        reader.connectionLost(Failure(ConnectionDone()))

    def test_lostAfterStop(self) -> None:
        """
        A device that goes away while its capture ends changes nothing, and
        neither does the reactor letting go of it.
        """
        plan = self.bench.start()
        [reader] = self.bench.reactor.getReaders()
        self.bench.send(0, 2)
        self.bench.captures.cancel(plan.id)
        self.bench.system.removeDevice("eth0")
        reader.connectionLost(Failure(ConnectionDone()))
        self.bench.settle()
        self.assertStopped(Stop.CANCELLED, 2)

    def test_unfreezable(self) -> None:
        """A device that cannot be told to stop is read to its end."""
        plan = self.bench.start()
        self.bench.send(0, 2)

        def freeze() -> None:
            raise OSError("no such device")

        self.patch(self.bench.system.handles[0], "freeze", freeze)
        self.bench.captures.cancel(plan.id)
        self.bench.settle()
        self.assertStopped(Stop.CANCELLED, 2)

    def test_memory(self) -> None:
        """
        When all recordings together have used up the memory, the capture that
        did it ends with all that it got.
        """
        bench = makeBench(self, memory=8192)
        bench.system.addDevice("eth1")
        bench.start("eth1")
        bench.receive(1000, 1060, "eth1")
        bench.start()
        bench.receive(0, 60)
        bench.settle()
        self.assertStopped(Stop.MEMORY, 60, bench)
        self.assertEqual(bench.event("completed")["interface"], "eth0")

    def test_nothing(self) -> None:
        """A capture without packets completes, and delivers nothing."""
        plan = self.bench.start()
        self.bench.captures.cancel(plan.id)
        self.bench.settle()
        completed = self.bench.event("completed")
        self.assertEqual((completed["packets"], completed["bytes"]), (0, 0))
        self.assertNotIn("filename", completed)
        self.assertNotIn("sha256", completed)
        self.assertEqual(self.bench.recordings, {})
        self.assertEqual(self.bench.names(), ["armed", "completed"])

    def test_nothingMatched(self) -> None:
        """So does one that was woken up for nothing."""
        plan = self.bench.start()
        [reader] = self.bench.reactor.getReaders()
        reader.doRead()
        self.bench.captures.cancel(plan.id)
        self.bench.settle()
        self.assertEqual(self.bench.event("completed")["bytes"], 0)
        self.assertEqual(self.bench.recordings, {})

    def test_result(self) -> None:
        """The result says of the file what is true of it."""
        bench = makeBench(self, MemoryCaptureSystem(ringFrames=5))
        bench.system.addDevice("tun0", 12)
        plan = bench.start("tun0", 12, packets=5, snaplength=50, alertid=0)
        bench.reactor.advance(1)
        bench.send(0, 8, "tun0")
        bench.pump()
        content = self.content(bench)
        self.assertEqual(
            bench.event("completed"),
            {
                "event": "completed",
                "time": timestamp(EPOCH + 1),
                "node": "web1",
                "id": plan.id,
                "alertid": 0,
                "interface": "tun0",
                "link": 12,
                "started": timestamp(EPOCH),
                "finished": timestamp(EPOCH + 1),
                "packets": 5,
                "bytes": len(content),
                "dropped": {"kernel": 3, "interface": 0},
                "stop": Stop.PACKETS,
                "sha256": hashlib.sha256(content).hexdigest(),
                "filename": plan.filename,
            },
        )
        self.assertEqual(list(bench.recordings), [plan.filename])
        file = pcapfile.read(content)
        self.assertEqual((file.snaplength, file.linkType), (50, 101))
        self.assertEqual({record.original for record in file.records}, {60})

    def test_settles(self) -> None:
        """
        Packets that show only some time after the stop, as those in a block
        that the kernel has not handed over yet, are not left out, also where that
        takes longer than it should; but there is an end to it.
        """
        plan = self.bench.start()
        handle = self.bench.system.handles[0]
        self.patch(handle, "freeze", lambda: None)
        self.patch(handle, "pending", lambda: True)
        self.bench.captures.cancel(plan.id)
        self.bench.settle()
        self.bench.settle()
        self.assertNotIn("completed", self.bench.names())
        self.bench.reactor.advance(SETTLE * 0.9)
        self.bench.send(0, 1)
        self.bench.settle()
        self.assertStopped(Stop.CANCELLED, 1)
        self.assertGreater(SETTLE, UNSEEN)


class FailureTests(_Tests):
    """
    Captures that cannot go on.
    """

    def assertFailed(self, reason: str) -> None:
        """
        The one capture ended with that, and all that it had has come back.
        """
        failed = self.bench.event("failed")
        self.assertEqual((failed["stage"], failed["reason"]), ("capture", reason))
        self.assertNotIn("completed", self.bench.names())
        self.assertEqual(self.bench.recordings, {})
        self.assertEqual(self.bench.captures.memory.used, 0)
        self.assertTrue(all(handle.closed for handle in self.bench.system.handles))
        self.assertEqual(self.bench.reactor.getReaders(), [])
        self.assertEqual(self.bench.reactor.getDelayedCalls(), [])
        self.bench.captures.admit(CAPACITY.captures)

    def test_drain(self) -> None:
        """A capture that cannot be read fails, with all that it held."""
        self.bench.start()
        self.bench.receive(0, 100)
        self.assertGreater(self.bench.captures.memory.used, 0)
        self.bench.system.handles[0].failure = CaptureError("eth0: broken")
        self.bench.receive(100, 101)
        self.assertFailed("eth0: broken")

    def test_unexpected(self) -> None:
        """So does one with an error that nobody thought of, which is logged."""
        self.bench.start()
        self.bench.system.handles[0].failure = ValueError()
        self.bench.receive(0, 1)
        self.assertFailed("ValueError()")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_duringStop(self) -> None:
        """A drain that fails while the capture is being stopped is no success."""
        plan = self.bench.start()
        self.bench.draining.held = True
        self.bench.receive(0, 3)
        self.bench.system.handles[0].failure = CaptureError("eth0: broken")
        self.bench.captures.cancel(plan.id)
        self.bench.settle()
        self.bench.draining.release()
        self.assertFailed("eth0: broken")

    def test_finalDrain(self) -> None:
        """Neither is the last drain failing."""
        plan = self.bench.start()
        self.bench.receive(0, 3)
        self.bench.send(3, 4)
        self.bench.system.handles[0].failure = CaptureError("eth0: broken")
        self.bench.captures.cancel(plan.id)
        self.bench.settle()
        self.assertFailed("eth0: broken")

    def test_flush(self) -> None:
        """Neither is a file that cannot be completed."""

        def flush() -> None:
            raise OSError(28, "No space left on device")

        plan = self.bench.start()
        self.bench.receive(0, 3)
        self.patch(self.bench.system.handles[0], "flush", flush)
        self.bench.captures.cancel(plan.id)
        self.bench.settle()
        self.assertFailed("[Errno 28] No space left on device")
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_reactor(self) -> None:
        """Nothing stays when the reactor will not watch the descriptor."""

        def addReader(reader: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        self.patch(self.bench.reactor, "addReader", addReader)
        self.bench.start()
        self.assertFailed("[Errno 1] Operation not permitted")
        self.assertEqual(len(self.flushLoggedErrors(PermissionError)), 1)

    def test_open(self) -> None:
        """A device that cannot be opened is said to have failed, and why."""
        for error in (
            CaptureError("eth0: down"),
            PrivilegeError("eth0: no permission"),
            RuntimeError("eth0: bug"),
        ):
            self.bench.observed.events.clear()
            self.bench.system.failures["eth0"] = error
            self.bench.start(alertid=7)
            self.assertFailed(str(error))
            self.assertEqual(self.bench.names(), ["failed"])
            self.assertEqual(self.bench.event("failed")["alertid"], 7)
            self.assertEqual(self.bench.event("failed")["interface"], "eth0")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_gone(self) -> None:
        """So is one that is not there any more."""
        self.bench.system.removeDevice("eth0")
        self.bench.start()
        self.assertFailed("eth0: no such device")


class DrainTests(_Tests):
    """
    How the reactor and the drains take turns.
    """

    def test_interface(self) -> None:
        """A capture is what a reactor reads from."""
        self.bench.start()
        [reader] = self.bench.reactor.getReaders()
        verifyObject(IReadDescriptor, reader)
        self.assertEqual(reader.fileno(), self.bench.system.handles[0].fileno())
        self.assertIn("capture1", reader.logPrefix())

    def slice(self) -> list[int]:
        """
        Let drains of the one capture give way to others after ten packets.

        @return: How many packets each of them brought, kept up to date.
        """
        handle = self.bench.system.handles[0]
        whole = handle.drain
        taken: list[int] = []

        def drain(packets: int, size: int) -> Drained:
            drained = whole(min(packets, 10), size)
            taken.append(drained.packets)
            return attrs.evolve(drained, more=drained.packets == 10)

        self.patch(handle, "drain", drain)
        return taken

    def test_more(self) -> None:
        """A drain that gave way to others is followed by the next at once."""
        self.bench.start()
        taken = self.slice()
        self.bench.send(0, 25)
        self.bench.poll()
        self.assertEqual(taken, [10, 10, 5])
        self.assertEqual(len(self.bench.reactor.getReaders()), 1)

    def test_moreAtStop(self) -> None:
        """At a stop drains follow each other until nothing is left."""
        plan = self.bench.start()
        self.slice()
        self.bench.send(0, 25)
        self.bench.captures.cancel(plan.id)
        self.bench.settle()
        self.assertStopped(Stop.CANCELLED, 25)

    def test_busy(self) -> None:
        """
        After a drain that brought many packets the ring is left alone for a
        moment, so that the next one brings more at once.
        """
        self.bench.start()
        self.bench.receive(0, BUSY_DRAIN)
        for number in range(1, 4):
            self.assertEqual(self.bench.reactor.getReaders(), [])
            self.bench.send(0, BUSY_DRAIN)
            self.bench.reactor.advance(0.015)
            [progress] = self.bench.captures.progress().values()
            self.assertEqual(progress["packets"], (number + 1) * BUSY_DRAIN)
        self.bench.reactor.advance(0.015)
        self.assertEqual(len(self.bench.reactor.getReaders()), 1)
        self.bench.receive(0, BUSY_DRAIN - 1)
        self.assertEqual(len(self.bench.reactor.getReaders()), 1)

    def test_busySmallRing(self) -> None:
        """A ring that would fill up meanwhile is not left alone."""
        bench = makeBench(self, totalbuffer=CAPACITY.captures * LEAST_RING)
        bench.start()
        bench.receive(0, BUSY_DRAIN)
        self.assertEqual(len(bench.reactor.getReaders()), 1)

    def test_stopWhilePaused(self) -> None:
        """A stop in such a moment takes what came in it."""
        plan = self.bench.start()
        self.bench.receive(0, BUSY_DRAIN)
        self.bench.send(BUSY_DRAIN, BUSY_DRAIN + 5)
        self.bench.captures.cancel(plan.id)
        self.bench.settle()
        self.assertEqual(self.bench.reactor.getDelayedCalls(), [])
        self.assertStopped(Stop.CANCELLED, BUSY_DRAIN + 5)

    def test_calls(self) -> None:
        """The handle is closed once, after everything else."""
        calls: list[str] = []

        def spy(name: str) -> None:
            real = getattr(handle, name)

            def called(*arguments: Any) -> Any:
                calls.append(name)
                return real(*arguments)

            self.patch(handle, name, called)

        plan = self.bench.start()
        [handle] = self.bench.system.handles
        for name in ("record", "drain", "freeze", "flush", "drops", "close"):
            spy(name)
        self.bench.receive(0, 1)
        self.bench.captures.cancel(plan.id)
        self.bench.settle()
        self.assertEqual(
            calls,
            ["record", "drain", "freeze", "flush", "drops", "close"],
        )
