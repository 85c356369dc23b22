# See LICENSE for details.
"""
Tests for L{pcapdaemon.progress}.
"""

from __future__ import annotations

from zope.interface.verify import verifyObject

from twisted.application.service import IService
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.progress import Progress
from pcapdaemon.test.fixtures import makeBench


class ProgressTests(SynchronousTestCase):
    """
    Tests for L{Progress}.
    """

    def setUp(self) -> None:
        self.bench = makeBench(self)
        self.progress = Progress(self.bench.reactor, self.bench.captures)
        self.progress.startService()
        self.addCleanup(self.progress.stopService)

    def told(self) -> int:
        """How many events there were since the last time."""
        events = self.bench.observed.named("progress")
        self.bench.observed.events.clear()
        return len(events)

    def advance(self, seconds: int) -> None:
        """Let so many seconds pass, one by one."""
        self.bench.reactor.pump([1] * seconds)

    def test_interface(self) -> None:
        """It is a service."""
        verifyObject(IService, self.progress)

    def test_event(self) -> None:
        """An event says how far a capture is and how fast it goes."""
        plan = self.bench.start(packets=1000, timeout=60, request_id="r")
        self.progress.watch()
        self.bench.receive(0, 50)
        self.advance(1)
        self.bench.receive(50, 60)
        self.advance(1)
        first, second = self.bench.observed.named("progress")
        self.assertEqual(
            {key: first[key] for key in ("id", "interface", "request_id")},
            {"id": plan.id, "interface": "eth0", "request_id": "r"},
        )
        self.assertEqual((first["elapsed"], first["packets"]), (1, 50))
        self.assertEqual((second["elapsed"], second["packets"]), (2, 60))
        self.assertEqual((first["rate"], second["rate"]), (50, 10))
        self.assertEqual(first["dropped"], {"kernel": 0, "interface": 0})
        self.assertGreater(second["bytes"], first["bytes"])

    def test_notArmed(self) -> None:
        """Nothing is said of a capture whose device is not open yet."""
        self.bench.opening.held = True
        self.bench.start()
        self.progress.watch()
        self.advance(2)
        self.assertEqual(self.told(), 0)
        self.bench.opening.release()
        self.advance(1)
        self.assertEqual(self.told(), 1)

    def test_wanted(self) -> None:
        """It is silent unless it is configured or watched."""
        self.bench.start(timeout=100)
        self.advance(3)
        self.assertEqual(self.told(), 0)
        self.progress.every = 2
        self.advance(4)
        self.assertEqual(self.told(), 2)
        leave, another = self.progress.watch(), self.progress.watch()
        self.advance(4)
        self.assertEqual(self.told(), 4)
        leave()
        leave()
        self.advance(2)
        self.assertEqual(self.told(), 2)
        another()
        self.advance(4)
        self.assertEqual(self.told(), 2)
        self.progress.every = 0
        self.advance(4)
        self.assertEqual(self.told(), 0)

    def test_drops(self) -> None:
        """Drops show while the capture runs."""
        self.bench.system.ringFrames = 4
        self.bench.start(packets=1000, timeout=60)
        self.progress.watch()
        self.bench.receive(0, 1)
        self.advance(1)
        self.bench.receive(1, 12)
        self.advance(1)
        self.assertEqual(
            [e["dropped"]["kernel"] for e in self.bench.observed.named("progress")],
            [0, 7],
        )

    def test_stop(self) -> None:
        """A service that was stopped says nothing and leaves no call behind."""
        self.bench.start(timeout=100)
        self.progress.every = 1
        self.progress.stopService()
        self.bench.observed.events.clear()
        self.advance(3)
        self.assertEqual(self.told(), 0)
        self.progress.every = 2
        self.progress.watch()
        self.advance(3)
        self.assertEqual(self.told(), 0)
