# See LICENSE for details.
"""
A spool among stand-ins, for tests that move it by hand.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import attrs

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.capture.recording import Recording
from pcapdaemon.events import Events
from pcapdaemon.interfaces import StoreError
from pcapdaemon.spool import Spool
from pcapdaemon.test.fixtures import EPOCH, Worker, makeRecording
from pcapdaemon.testing import EventList, MemorySink

#: Room for everything.
ROOM = 1 << 30
#: Why recordings are in the spool.
DOWN = StoreError("refused", True)
#: Days in seconds.
DAY = 86400.0


def makeSealed(
    case: SynchronousTestCase, id: str = "abc", content: bytes = b"pcap", **fields: Any
) -> Recording:
    """
    Like L{makeRecording}, with the content's true SHA-256.
    """
    recording = makeRecording(case, id, content, **fields)
    return attrs.evolve(recording, sha256=sha256(content).hexdigest())


class SpoolTestCase(SynchronousTestCase):
    """
    Tests that have a spool and two sinks.

    @ivar spread: What chance gives.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.spread = 1.0
        self.observed = EventList()
        self.events = Events("web1", self.now)
        self.events.add(self.observed)
        self.work = Worker()
        self.directory = Path(self.mktemp()).absolute()
        self.one, self.two = MemorySink("one"), MemorySink("two")
        self.spool = self.started()

    def now(self) -> float:
        """Seconds since the epoch."""
        return EPOCH + float(self.clock.seconds())

    def makeSpool(
        self, maxsize: int = ROOM, maxage: float = 7 * DAY, work: Any = None
    ) -> Spool:
        """A spool that has not been started."""
        return Spool(
            str(self.directory),
            maxsize,
            maxage,
            self.events,
            work or self.work,
            self.clock,
            self.now,
            lambda: self.spread,
        )

    def started(self, **settings: Any) -> Spool:
        """A spool that runs until the test ends, after which nothing is left."""
        spool = self.makeSpool(**settings)
        spool.sinks = [self.one, self.two]
        spool.startService()
        self.addCleanup(self.end, spool)
        return spool

    def end(self, spool: Spool) -> None:
        """Stop a spool."""
        if spool.running:
            stopped = spool.stopService()
            self.work.release()
            self.clock.advance(10)
            self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def restart(self, **settings: Any) -> None:
        """What an operator does; nothing of the old one goes on."""
        self.end(self.spool)
        self.spool = self.started(**settings)

    def add(
        self,
        id: str = "abc",
        sink: str = "one",
        error: StoreError = DOWN,
        **fields: Any,
    ) -> Recording:
        """Have a recording in the spool."""
        recording = makeSealed(self, id, b"pcap of " + id.encode(), **fields)
        self.successResultOf(self.spool.add(recording, sink, error))
        recording.close()
        return recording

    def names(self) -> list[str]:
        """What is in the directory, but for the lock."""
        return sorted(set(os.listdir(self.directory)) - {"lock"})

    def stored(self, name: str = "stored") -> list[tuple[str, str]]:
        """Which events there were of that kind: identifier and sink."""
        return [(event["id"], event["sink"]) for event in self.observed.named(name)]

    def sent(self, sink: MemorySink) -> list[str]:
        """The identifiers of what was tried at a sink."""
        return [name.rpartition("-")[2].removesuffix(".pcap") for name in sink.attempts]
