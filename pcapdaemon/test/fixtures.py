# See LICENSE for details.
"""
The capture service among stand-ins, for tests that move it by hand.
"""

from __future__ import annotations

import hashlib
import os
import select
from collections import deque
from collections.abc import Callable
from typing import Any
from unittest import TestCase

import attrs

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.capture.capture import SETTLE, Threads
from pcapdaemon.capture.recording import MemoryFile, Recording
from pcapdaemon.capture.service import Capacity, CaptureService
from pcapdaemon.events import Events
from pcapdaemon.interfaces import Drops, Stop
from pcapdaemon.plan import CapturePlan, Limits, makePlan
from pcapdaemon.request import CaptureRequest
from pcapdaemon.test import pcapfile
from pcapdaemon.testing import EventList, MemoryCaptureSystem, MemoryFilterChecker

#: When the clocks of these tests begin, in seconds since the epoch.
EPOCH = 1_700_000_000

#: Bytes of a test packet, and of one in a file.
PACKET = 60
RECORD = pcapfile.PACKET_HEADER + PACKET

LIMITS = Limits(
    maxpackets=10_000,
    maxbytes=10_000_000,
    snaplength=65_536,
    defaulttimeout=10,
    maxtimeout=3600,
    maxduration=600,
    maxfilter=100,
)

CAPACITY = Capacity(
    captures=4, buffersize=64 << 20, totalbuffer=1 << 30, memory=100 << 20
)


def packet(number: int) -> bytes:
    """
    A packet that can be told from others.
    """
    return number.to_bytes(PACKET, "big")


def numbers(content: bytes) -> list[int]:
    """
    Which packets are in a pcap file.
    """
    return [int.from_bytes(r.data, "big") for r in pcapfile.read(content).records]


def makeRecording(
    case: TestCase, id: str = "abc", content: bytes = b"pcap", **fields: Any
) -> Recording:
    """
    A finished recording with any content; C{fields} are those of its request.
    """
    request = CaptureRequest(node="any", interfaces=("eth0",), **fields)
    plan = makePlan(request, "eth0", "main", "", LIMITS, "web1", id, EPOCH)
    file = MemoryFile(plan.filename)
    os.pwrite(file.fileno(), content, 0)
    size, sha256 = len(content), hashlib.sha256(content).hexdigest()
    recording = Recording(
        plan, 1, EPOCH, EPOCH + 1, 1, size, Drops(), Stop.PACKETS, sha256, file
    )
    case.addCleanup(recording.close)
    return recording


class Worker:
    """
    What stands in for a thread: it works at once, or when the test says so.

    @ivar held: Whether calls wait for L{release}.
    @ivar late: Whether the results of calls do.
    """

    held = late = False

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], object]] = deque()

    def __call__(self, f: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        result: Deferred[Any] = Deferred()
        if self.late:
            done = maybeDeferred(f, *arguments)
            self._waiting.append(lambda: done.chainDeferred(result))
        elif self.held:
            self._waiting.append(
                lambda: maybeDeferred(f, *arguments).chainDeferred(result)
            )
        else:
            maybeDeferred(f, *arguments).chainDeferred(result)
        return result

    def release(self) -> None:
        """Let all that waits happen, and from now on everything at once."""
        while self._waiting:
            self._waiting.popleft()()
        self.held = self.late = False

    def __len__(self) -> int:
        return len(self._waiting)


class CaptureBench:
    """
    A capture service with all that it needs; made by L{makeBench}.

    @ivar opening: As C{draining} and C{work} a L{Worker} instead of threads.
    @ivar recordings: What was delivered, as file names and bytes.
    @ivar delivering: What C{deliver} returns, as long as there is something.
    @ivar examine: What is called with finished recordings.
    """

    def __init__(self, system: MemoryCaptureSystem, capacity: Capacity) -> None:
        self.reactor = MemoryReactorClock()
        self.opening, self.draining, self.work = Worker(), Worker(), Worker()
        self.system = system
        self.checker = MemoryFilterChecker()
        self.observed = EventList()
        self.events = Events("web1", self.clock)
        self.events.add(self.observed)
        self.recordings: dict[str, bytes] = {}
        self.delivering: deque[Deferred[None]] = deque()
        self.examine: Callable[[Recording], Deferred[None]] = lambda _: succeed(None)
        self.captures = CaptureService(
            self.reactor,
            Threads(self.opening, self.opening, self.draining, self.work),
            system,
            self.checker,
            self.events,
            capacity,
            lambda recording: self.examine(recording),
            self._deliver,
            self.clock,
        )
        self.captures.startService()
        self._made = 0

    def clock(self) -> float:
        """Seconds since the epoch."""
        return EPOCH + float(self.reactor.seconds())

    def _deliver(self, recording: Recording) -> Deferred[None]:
        with recording.open() as stream:
            self.recordings[recording.filename] = stream.read()
        return self.delivering.popleft() if self.delivering else succeed(None)

    def start(
        self, device: str = "eth0", linkType: int = 1, filter: str = "", **fields: Any
    ) -> CapturePlan:
        """Start a capture; C{fields} are those of its request."""
        self._made += 1
        request = CaptureRequest(node="any", interfaces=(device,), **fields)
        plan = makePlan(
            request,
            device,
            "",
            filter,
            LIMITS,
            "web1",
            f"capture{self._made}",
            self.clock(),
        )
        self.captures.start(plan, linkType)
        return plan

    def send(self, first: int, end: int, device: str = "eth0") -> None:
        """Let the packets of a range of numbers arrive."""
        for number in range(first, end):
            self.system.deliver(device, packet(number))

    def poll(self) -> bool:
        """
        Let the reactor look at its descriptors once, and do what it does.

        @return: Whether there was something to do.
        """
        found = False
        for reader in self.reactor.getReaders():
            poll = select.poll()
            poll.register(reader.fileno(), select.POLLIN)
            for _descriptor, mask in poll.poll(0):
                found = True
                if mask & select.POLLIN:
                    reader.doRead()
                else:
                    self.reactor.removeReader(reader)
                    reader.connectionLost(Failure(ConnectionDone()))
        return found

    def pump(self) -> None:
        """Let the reactor look until nothing waits."""
        while self.poll():
            pass

    def receive(self, first: int, end: int, device: str = "eth0") -> None:
        """Let packets arrive, and have them read."""
        self.send(first, end, device)
        self.pump()

    def settle(self) -> None:
        """Let a capture that has stopped come to its end."""
        self.reactor.advance(SETTLE)

    def event(self, name: str) -> dict[str, Any]:
        """The one event of that name."""
        [event] = self.observed.named(name)
        return dict(event)

    def names(self) -> list[str]:
        """The names of all events, in order."""
        return [event["event"] for event in self.observed.events]


def _memoryFiles() -> list[str]:
    """
    The recordings that this process has open.
    """
    with os.scandir("/proc/self/fd") as descriptors:
        targets = [os.readlink(descriptor) for descriptor in descriptors]
    return [target for target in targets if target.startswith("/memfd:web1-")]


def makeBench(
    case: SynchronousTestCase,
    system: MemoryCaptureSystem | None = None,
    **capacity: Any,
) -> CaptureBench:
    """
    Make a bench with the device C{eth0}. At the end of the test everything is
    stopped, and nothing may be left of it: readers, delayed calls, memory, open
    devices, recordings.

    @param capacity: What differs from L{CAPACITY}.
    """
    system = system or MemoryCaptureSystem()
    system.addDevice("eth0")
    bench = CaptureBench(system, attrs.evolve(CAPACITY, **capacity))

    def end() -> None:
        stopped = bench.captures.stopService()
        for worker in (bench.opening, bench.draining, bench.work):
            worker.release()
        bench.settle()
        case.successResultOf(stopped)
        case.assertEqual(bench.reactor.getReaders(), [])
        case.assertEqual(bench.reactor.getDelayedCalls(), [])
        case.assertEqual(bench.captures.memory.used, 0)
        case.assertEqual(bench.captures.progress(), {})
        case.assertEqual([h.device for h in system.handles if not h.closed], [])
        case.assertEqual(_memoryFiles(), [])

    case.addCleanup(end)
    return bench
