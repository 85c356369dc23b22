# See LICENSE for details.
"""
Stand-ins for the world outside, for tests of this project and of programs that
embed it: packets without a network, filters without libpcap, sinks without
storage. They keep the promises of L{pcapdaemon.interfaces}, and complain when
theirs are broken.
"""

from __future__ import annotations

import os
import struct
import threading
import time as _time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed

from pcapdaemon.interfaces import (
    CaptureError,
    Direction,
    Drained,
    Drops,
    ICaptureHandle,
    ICaptureSystem,
    IEventObserver,
    IFilterChecker,
    InterfaceLost,
    ISink,
    LinkTypeMismatch,
    OpenOptions,
    Refused,
)

if TYPE_CHECKING:
    from pcapdaemon.capture.recording import Recording
    from pcapdaemon.request import CaptureRequest

#: What a pcap file calls the C{DLT_} numbers that it has another number for.
_LINKTYPES = {12: 101}
#: How far the file lags behind, as with the buffered writer of libpcap.
_BUFFER = 4096


@implementer(ICaptureHandle)
class MemoryHandle:
    """
    An open device of a L{MemoryCaptureSystem}.

    @ivar device: The name of the device.
    @ivar options: How it was opened.
    @ivar failure: What the next L{drain} raises; set by tests.
    @ivar closed: Whether L{close} was called.
    """

    failure: Exception | None = None
    closed = False

    def __init__(
        self,
        device: str,
        linkType: int,
        options: OpenOptions,
        matches: Callable[[bytes], bool],
        ringFrames: int,
    ) -> None:
        self.device = device
        self.linkType = linkType
        self.options = options
        self._ringFrames = ringFrames
        self._matches = matches
        self._ring: deque[bytes] = deque()
        self._dropped = 0
        self._frozen = self._lost = self._full = False
        self._file: int | None = None
        self._pending = bytearray()
        self._written = 0
        # A byte in the pipe says that packets wait, its end that the device
        # is lost: the reactor sees both as it does with a packet socket.
        self._reader, self._writer = os.pipe()
        # The one guards ring and pipe against the thread that delivers, the
        # other finds calls that overlap.
        self._lock = threading.Lock()
        self._call = threading.Lock()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._call.acquire(blocking=False):
            raise AssertionError(f"two calls overlap on the handle of {self.device}")
        try:
            if self.closed:
                raise AssertionError(f"the handle of {self.device} is closed")
            yield
        finally:
            self._call.release()

    def _deliver(self, data: bytes, original: int, time: float, way: str) -> bool:
        """Put a packet into the ring, and say whether it got there."""
        with self._lock:
            if self.closed or self._frozen or self._lost or not self._matches(data):
                return False
            if self.options.direction not in (Direction.BOTH, way):
                return False
            if len(self._ring) >= self._ringFrames:
                self._dropped += 1
                return False
            kept = data[: self.options.snaplength]
            units = 10**9 if self.options.nanoseconds else 10**6
            seconds, fraction = divmod(round(time * units), units)
            header = struct.pack("<4I", seconds, fraction, len(kept), original)
            if not self._ring:
                os.write(self._writer, b"!")
            self._ring.append(header + kept)
            return True

    def _lose(self) -> None:
        with self._lock:
            if not (self._lost or self.closed):
                self._lost = True
                os.close(self._writer)

    def fileno(self) -> int:
        """See L{ICaptureHandle.fileno}."""
        return self._reader

    def record(self, descriptor: int) -> None:
        """See L{ICaptureHandle.record}."""
        with self._alone():
            if self._file is not None:
                raise AssertionError("record is for once")
            # Its own descriptor, as the caller may close the other one.
            self._file = os.dup(descriptor)
            network = _LINKTYPES.get(self.linkType, self.linkType)
            snaplength = self.options.snaplength
            magic = 0xA1B23C4D if self.options.nanoseconds else 0xA1B2C3D4
            fields = (magic, 2, 4, 0, 0, snaplength, network)
            self._pending += struct.pack("<IHHiIII", *fields)

    def drain(self, packets: int, size: int) -> Drained:
        """See L{ICaptureHandle.drain}."""
        with self._alone(), self._lock:
            if self._file is None:
                raise AssertionError("drain without record")
            if self.failure is not None:
                failure, self.failure = self.failure, None
                raise failure
            if self._lost and not self._ring and not self._full:
                raise InterfaceLost(f"{self.device}: the interface is gone")
            taken = 0
            while self._ring and taken < packets and not self._full:
                self._pending += self._ring.popleft()
                taken += 1
                self._full = self._written + len(self._pending) >= size
                if not self._ring:
                    os.read(self._reader, 1)
            self._write(everything=self._full)
            return Drained(taken, self._written, self._full)

    def _write(self, everything: bool) -> None:
        step = 1 if everything else _BUFFER
        ready = len(self._pending) // step * step
        while ready:
            assert self._file is not None
            written = os.pwrite(self._file, self._pending[:ready], self._written)
            del self._pending[:written]
            self._written += written
            ready -= written

    def pending(self) -> bool:
        """See L{ICaptureHandle.pending}."""
        with self._alone():
            return bool(self._ring)

    def freeze(self) -> None:
        """See L{ICaptureHandle.freeze}."""
        with self._lock:
            self._frozen = True

    def flush(self) -> None:
        """See L{ICaptureHandle.flush}."""
        with self._alone():
            if self._file is not None:
                self._write(everything=True)

    def drops(self) -> Drops:
        """See L{ICaptureHandle.drops}."""
        with self._alone():
            return Drops(kernel=self._dropped)

    def close(self) -> None:
        """See L{ICaptureHandle.close}."""
        self._lose()
        with self._alone():
            self.closed = True
            os.close(self._reader)
            if self._file is not None:
                os.close(self._file)


@implementer(ICaptureSystem)
class MemoryCaptureSystem:
    """
    Devices that exist for one test, and get the packets that it delivers.
    C{any} is there from the start and gets what is delivered to C{any} only.

    @ivar ringFrames: How many packets the ring of a handle holds.
    @ivar filters: What each filter matches, by its text; the empty one, which
        matches everything, is there from the start.
    @ivar refusal: What L{check} raises, if anything.
    @ivar failures: What opening a device raises, by its name.
    @ivar apparent: What L{linkType} says of a device instead of the truth.
    @ivar handles: All handles ever opened, oldest first.
    """

    name = "memory"
    openers = 1
    drainers = 1
    nanoseconds = True
    refusal: CaptureError | None = None

    def __init__(self, ringFrames: int = 1024) -> None:
        self.ringFrames = ringFrames
        self.filters: dict[str, Callable[[bytes], bool]] = {"": lambda data: True}
        self.failures: dict[str, Exception] = {}
        self.apparent: dict[str, int] = {}
        self.handles: list[MemoryHandle] = []
        self._devices: dict[str, int] = {"any": 113}
        self._down: set[str] = set()

    def addDevice(self, name: str, linkType: int = 1) -> None:
        """Let a device appear, or come up again."""
        self._devices[name] = linkType
        self._down.discard(name)

    def removeDevice(self, name: str) -> None:
        """Let a device go away; its handles are lost."""
        del self._devices[name]
        self._lose(name)

    def setDown(self, name: str) -> None:
        """
        Let a device go down: its handles are lost, for good in this
        implementation, and it cannot be opened until it is added again.
        """
        self._down.add(name)
        self._lose(name)

    def _lose(self, name: str) -> None:
        for handle in list(self.handles):
            if handle.device == name:
                handle._lose()

    def deliver(
        self,
        device: str,
        data: bytes,
        original: int | None = None,
        time: float | None = None,
        direction: str = Direction.IN,
    ) -> int:
        """
        Let a packet arrive. Any thread.

        @param data: The packet, its link header included.
        @param original: Its length on the wire; missing: that of C{data}.
        @param time: Its time stamp, in seconds since the epoch; missing: now.
        @param direction: C{in}, or C{out} for one that leaves.
        @return: Into how many rings it was put.
        """
        if device not in self._devices:
            raise ValueError(f"no device {device}")
        length = len(data) if original is None else original
        stamp = _time.time() if time is None else time
        return sum(
            handle._deliver(data, length, stamp, direction)
            for handle in list(self.handles)
            if handle.device == device
        )

    def check(self) -> None:
        """See L{ICaptureSystem.check}."""
        if self.refusal is not None:
            raise self.refusal

    def linkType(self, device: str) -> int:
        """See L{ICaptureSystem.linkType}."""
        if device not in self._devices:
            raise CaptureError(f"{device}: no such device")
        return self.apparent.get(device, self._devices[device])

    def open(self, device: str, options: OpenOptions) -> MemoryHandle:
        """See L{ICaptureSystem.open}."""
        if device in self.failures:
            raise self.failures[device]
        self.linkType(device)
        if device in self._down:
            raise CaptureError(f"{device}: the device is down")
        linkType = self._devices[device]
        if options.filter and options.linkType != linkType:
            raise LinkTypeMismatch(device, linkType, options.linkType)
        if options.filter not in self.filters:
            raise CaptureError(f"{device}: unknown filter {options.filter!r}")
        handle = MemoryHandle(
            device,
            linkType,
            options,
            self.filters[options.filter],
            self.ringFrames,
        )
        self.handles.append(handle)
        return handle


@implementer(IFilterChecker)
class MemoryFilterChecker(Service):
    """
    A filter checker that says what the test wants.

    @ivar verdicts: What to say of a filter: another text to use, a refusal, or
        a Deferred of the text, which the test fires. Any filter that is not
        there is sound as it is.
    @ivar checked: The arguments of each check, in order.
    """

    def __init__(self) -> None:
        self.verdicts: dict[str, str | Refused | Deferred[str]] = {}
        self.checked: list[tuple[str, int, int]] = []

    def check(self, filter: str, linkType: int, snaplength: int) -> Deferred[str]:
        """See L{IFilterChecker.check}."""
        self.checked.append((filter, linkType, snaplength))
        verdict = self.verdicts.get(filter, filter)
        if isinstance(verdict, Deferred):
            return verdict
        if isinstance(verdict, Refused):
            return fail(verdict)
        return succeed(verdict)


@implementer(IEventObserver)
class EventList:
    """
    Keeps the events that it sees.

    @ivar events: They, oldest first.
    """

    def __init__(self) -> None:
        self.events: list[Mapping[str, Any]] = []

    def observe(self, event: Mapping[str, Any]) -> None:
        """See L{IEventObserver.observe}."""
        self.events.append(event)

    def named(self, name: str) -> list[Mapping[str, Any]]:
        """The events of one kind, such as C{completed}."""
        return [event for event in self.events if event["event"] == name]


@implementer(ISink)
class MemorySink(Service):
    """
    A sink that keeps recordings in memory, and fails or dawdles when told to.

    @ivar files: The bytes of each stored recording, by its file name.
    @ivar attempts: The file name of each recording that L{store} was called
        with, in order.
    @ivar failure: What every attempt fails with, as long as it is set.
    @ivar failures: Each attempt takes the first of these, if there is one, and
        fails with it.
    @ivar gates: Each attempt takes the first of these, if there is one, and
        waits for it: it stores when the Deferred fires, and fails when that
        fails.
    """

    failure: Exception | None = None

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.files: dict[str, bytes] = {}
        self.attempts: list[str] = []
        self.failures: deque[Exception] = deque()
        self.gates: deque[Deferred[None]] = deque()

    def examine(self, request: CaptureRequest) -> None:
        """See L{ISink.examine}: anything goes."""

    def store(self, recording: Recording) -> Deferred[str]:
        """See L{ISink.store}."""
        self.attempts.append(recording.filename)
        if self.failure is not None:
            return fail(self.failure)
        if self.failures:
            return fail(self.failures.popleft())
        gate = self.gates.popleft() if self.gates else succeed(None)

        def keep(ignored: None) -> str:
            with recording.open() as file:
                self.files[recording.filename] = file.read()
            return f"memory:{recording.filename}"

        return gate.addCallback(keep)
