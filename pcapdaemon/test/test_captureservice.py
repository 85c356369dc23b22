# See LICENSE for details.
"""
Tests for L{pcapdaemon.capture.service}.
"""

from __future__ import annotations

import attrs
from zope.interface.verify import verifyObject

from twisted.application.service import IService
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.interfaces import (
    CaptureError,
    Reason,
    Refused,
    Stop,
)
from pcapdaemon.test import pcapfile
from pcapdaemon.test.fixtures import (
    CAPACITY,
    RECORD,
    makeBench,
    numbers,
    packet,
)


class _Tests(SynchronousTestCase):
    """
    Tests that have a bench.
    """

    def setUp(self) -> None:
        self.bench = makeBench(self)


class AdmissionTests(_Tests):
    """
    Tests for L{CaptureService.admit} and what comes back.
    """

    def refused(self, captures: int = 1) -> Refused:
        """What so many more captures are refused with."""
        refused: Refused = self.assertRaises(
            Refused, self.bench.captures.admit, captures
        )
        return refused

    def test_captures(self) -> None:
        """There are at most so many captures, and a refusal says how many."""
        self.assertEqual(self.refused(5).reason, Reason.BUSY)
        for _ in range(3):
            self.bench.start()
        self.bench.captures.admit(1)
        self.bench.start()
        refused = self.refused()
        self.assertEqual(refused.reason, Reason.BUSY)
        self.assertIn("maxcaptures = 4", refused.detail)

    def test_waiting(self) -> None:
        """Captures whose device is not open yet count."""
        self.bench.opening.held = True
        for _ in range(4):
            self.bench.start()
        self.assertEqual(self.refused().reason, Reason.BUSY)

    def test_closing(self) -> None:
        """Captures whose device is not closed yet count."""
        plans = [self.bench.start(packets=1) for _ in range(4)]
        self.bench.opening.held = True
        self.bench.receive(0, 1)
        self.assertEqual(len(self.bench.observed.named("completed")), len(plans))
        self.assertEqual(self.bench.captures.progress(), {})
        self.assertEqual(self.refused().reason, Reason.BUSY)
        self.bench.opening.release()
        self.bench.captures.admit(4)

    def test_unclosable(self) -> None:
        """A device that fails to close is done with, and the error logged."""

        def close() -> None:
            raise OSError("close")

        self.bench.start(packets=1)
        handle = self.bench.system.handles[0]
        patched = self.patch(handle, "close", close)
        self.bench.receive(0, 1)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.bench.captures.admit(4)
        patched.restore()
        handle.close()

    def test_rings(self) -> None:
        """
        Each capture gets a ring of its own, all within the total, and gives it
        back, however it ends.
        """
        bench = makeBench(self, captures=3, totalbuffer=64 << 20)
        for _ in range(2):
            plans = [bench.start() for _ in range(3)]
            for plan in plans:
                bench.captures.cancel(plan.id)
            bench.settle()
        bench.system.failures["eth0"] = CaptureError("eth0: down")
        bench.start()
        bench.system.failures.clear()
        for _ in range(3):
            bench.start()
        rings = [handle.options.buffersize for handle in bench.system.handles]
        self.assertEqual(rings[:3], rings[3:6])
        self.assertEqual(rings[:3], rings[6:])
        self.assertLessEqual(sum(rings[:3]), 64 << 20)
        self.assertEqual(
            [event["ring"] for event in bench.observed.named("armed")], rings
        )

    def test_memory(self) -> None:
        """
        While recordings take all memory nobody is let in; it is theirs until
        they have been delivered, however that goes.
        """
        endings: tuple[tuple[object, int], ...] = (
            (None, 0),
            (Failure(OSError("lost")), 1),
        )
        for ending, errors in endings:
            delivered: Deferred[None] = Deferred()
            self.bench.delivering.append(delivered)
            self.bench.start(packets=2)
            self.bench.receive(0, 2)
            used = self.bench.captures.memory.used
            self.assertEqual(used, 24 + 2 * RECORD)
            self.bench.captures.configure(attrs.evolve(CAPACITY, memory=used))
            refused = self.refused()
            self.assertEqual(refused.reason, Reason.BUSY)
            self.assertIn(str(used), refused.detail)
            delivered.callback(ending)  # type: ignore[arg-type]
            self.assertEqual(self.bench.captures.memory.used, 0)
            self.bench.captures.admit(1)
            self.assertEqual(len(self.flushLoggedErrors(OSError)), errors)
        self.assertEqual(self.bench.event("failed")["stage"], "store")

    def test_configure(self) -> None:
        """Other figures hold for what comes next."""
        self.bench.start()
        self.bench.start()
        self.bench.captures.configure(
            attrs.evolve(
                CAPACITY,
                captures=3,
                buffersize=1 << 20,
                promiscuous=True,
            )
        )
        self.assertEqual(self.refused(2).reason, Reason.BUSY)
        self.bench.captures.admit(1)
        self.bench.start()
        before, _, after = (handle.options for handle in self.bench.system.handles)
        self.assertEqual((before.buffersize, before.promiscuous), (64 << 20, False))
        self.assertEqual((after.buffersize, after.promiscuous), (1 << 20, True))


class LinkTypeTests(_Tests):
    """
    Devices that turn out to be of another link type than their filter was
    checked for.
    """

    def setUp(self) -> None:
        super().setUp()
        self.bench.system.addDevice("tun0", 12)
        self.bench.system.filters["udp"] = lambda data: data[-1] != 0

    def test_mismatch(self) -> None:
        """The filter is checked for the true one, and then set."""
        self.bench.start("tun0", 1, "udp")
        self.assertEqual(self.bench.checker.checked, [("udp", 12, 65536)])
        self.assertEqual(self.bench.event("armed")["link"], 12)
        self.bench.receive(0, 3, "tun0")
        self.assertEqual(self.bench.captures.progress()["capture1"]["packets"], 2)

    def test_replaced(self) -> None:
        """What the checker makes of the filter is what is set."""
        self.bench.checker.verdicts["host a"] = "udp"
        self.bench.start("tun0", 1, "host a")
        self.assertEqual(self.bench.system.handles[0].options.filter, "udp")

    def test_unsound(self) -> None:
        """A filter that is wrong for the true one fails the capture."""
        refusal = Refused(Reason.BAD_FILTER, "bpf: no Ethernet header")
        self.bench.checker.verdicts["udp"] = refusal
        self.bench.start("tun0", 1, "udp")
        self.assertEqual(self.bench.event("failed")["reason"], refusal.detail)
        self.assertEqual(self.bench.names(), ["failed"])
        self.bench.captures.admit(4)

    def test_match(self) -> None:
        """What has been checked already is not checked again."""
        self.bench.start("tun0", 12, "udp")
        self.assertEqual(self.bench.checker.checked, [])


class ServiceTests(_Tests):
    """
    Tests for L{CaptureService}.
    """

    def test_interface(self) -> None:
        """It is a service."""
        verifyObject(IService, self.bench.captures)

    def test_progress(self) -> None:
        """What runs can be asked about."""
        self.bench.opening.held = True
        plan = self.bench.start(packets=100)
        nothing = {"packets": 0, "bytes": 0}
        self.assertEqual(self.bench.captures.progress(), {plan.id: nothing})
        self.bench.opening.release()
        self.bench.receive(0, 99)
        [progress] = self.bench.captures.progress().values()
        self.assertEqual(progress["packets"], 99)
        self.assertLessEqual(24 + 99 * RECORD - 4096, progress["bytes"])
        self.bench.receive(99, 100)
        self.assertEqual(self.bench.captures.progress(), {})

    def test_cancelUnknown(self) -> None:
        """What does not run cannot be cancelled."""
        self.assertFalse(self.bench.captures.cancel("capture1"))
        plan = self.bench.start(packets=1)
        self.bench.receive(0, 1)
        self.assertFalse(self.bench.captures.cancel(plan.id))

    def test_cancelWhileOpening(self) -> None:
        """A capture that is cancelled early completes as such, once open."""
        self.bench.opening.held = True
        plan = self.bench.start()
        self.assertTrue(self.bench.captures.cancel(plan.id))
        self.assertTrue(self.bench.captures.cancel(plan.id))
        self.assertEqual(self.bench.names(), [])
        self.bench.opening.release()
        self.bench.settle()
        self.assertEqual(self.bench.names(), ["armed", "completed"])
        self.assertEqual(self.bench.event("completed")["stop"], Stop.CANCELLED)

    def test_examine(self) -> None:
        """
        A recording that fails its examination is not delivered, whatever the
        error is.
        """
        for error, logged in ((CaptureError("packet 3"), 0), (KeyError("x"), 1)):
            self.bench.observed.events.clear()
            self.bench.examine = lambda _, error=error: fail(error)  # type: ignore[misc]
            self.bench.start(packets=1)
            self.bench.receive(0, 1)
            failed = self.bench.event("failed")
            self.assertEqual(failed["stage"], "decode")
            self.assertEqual(failed["reason"], str(error))
            self.assertEqual(self.bench.recordings, {})
            self.assertEqual(self.bench.captures.memory.used, 0)
            self.assertEqual(len(self.flushLoggedErrors(KeyError)), logged)

    def test_shutdown(self) -> None:
        """
        The end of the service ends all captures with what they hold, and waits
        until all is delivered and closed.
        """
        self.bench.system.addDevice("eth1")
        delivering: list[Deferred[None]] = [Deferred(), Deferred()]
        self.bench.delivering.extend(delivering)
        self.bench.start(packets=1)
        self.bench.receive(0, 1)
        self.bench.start("eth1")
        self.bench.receive(0, 2, "eth1")
        self.bench.send(2, 4, "eth1")
        stopped = self.bench.captures.stopService()
        self.bench.settle()
        first, second = self.bench.observed.named("completed")
        self.assertEqual((first["stop"], second["stop"]), ("packets", "shutdown"))
        self.assertEqual(numbers(list(self.bench.recordings.values())[1]), [0, 1, 2, 3])
        for gate in delivering:
            self.assertNoResult(stopped)
            gate.callback(None)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertTrue(all(handle.closed for handle in self.bench.system.handles))

    def test_shutdownWaitsForClosing(self) -> None:
        """Devices that are being closed are waited for."""
        self.bench.start()
        self.bench.opening.held = True
        stopped = self.bench.captures.stopService()
        self.bench.settle()
        self.assertEqual(self.bench.event("completed")["stop"], Stop.SHUTDOWN)
        self.assertNoResult(stopped)
        self.bench.opening.release()
        self.successResultOf(stopped)

    def test_shutdownWhileWaiting(self) -> None:
        """Captures that wait for their device are told as failed."""
        self.bench.opening.held = True
        self.bench.start()
        stopped = self.bench.captures.stopService()
        self.assertNoResult(stopped)
        self.bench.opening.release()
        self.successResultOf(stopped)
        self.assertEqual(self.bench.names(), ["failed"])
        self.assertIn("shut down", self.bench.event("failed")["reason"])
        self.assertEqual(self.bench.system.handles, [])

    def test_shutdownWhileOpening(self) -> None:
        """A device that was being opened just then is closed again."""
        self.bench.opening.late = True
        self.bench.start()
        self.bench.send(0, 1)
        stopped = self.bench.captures.stopService()
        self.bench.opening.release()
        self.bench.settle()
        self.successResultOf(stopped)
        self.assertEqual(self.bench.event("completed")["stop"], Stop.SHUTDOWN)
        self.assertEqual(self.bench.event("completed")["packets"], 1)

    def test_shutdownRefuses(self) -> None:
        """Nobody is let in any more, from the first word of it on."""
        self.bench.captures.close()
        refused = self.assertRaises(Refused, self.bench.captures.admit, 1)
        self.assertEqual(refused.reason, Reason.CLOSING)

    def test_shutdownGivenUp(self) -> None:
        """Who does not want to wait any longer stops nothing by that."""
        delivered: Deferred[None] = Deferred()
        self.bench.delivering.append(delivered)
        self.bench.start()
        self.bench.receive(0, 1)
        stopped = self.bench.captures.stopService()
        self.bench.settle()
        stopped.addErrback(lambda _: None)
        stopped.cancel()
        self.assertGreater(self.bench.captures.memory.used, 0)
        delivered.callback(None)
        self.assertEqual(self.bench.captures.memory.used, 0)
        self.assertNotIn("failed", self.bench.names())

    def test_many(self) -> None:
        """Captures on one device do not disturb each other."""
        self.bench.start(packets=2)
        self.bench.start(packets=4)
        self.bench.receive(0, 3)
        self.bench.receive(3, 6)
        contents = self.bench.recordings.values()
        self.assertEqual([numbers(c) for c in contents], [[0, 1], [0, 1, 2, 3]])
        self.assertEqual(packet(3), pcapfile.read(list(contents)[1]).records[3].data)
