# See LICENSE for details.
"""
One capture, from opening its device to a finished recording.

The reactor waits on the device's descriptor. When packets wait there, the
descriptor is taken out of the reactor, one bounded drain runs in the capture
thread, and it goes back. So an idle capture costs a descriptor and no thread,
and no two calls to the handle ever overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from zope.interface import implementer

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from pcapdaemon.capture.budget import MemoryBudget
from pcapdaemon.capture.recording import MemoryFile, Recording
from pcapdaemon.interfaces import (
    Drained,
    Drops,
    ICaptureHandle,
    InterfaceLost,
    Stop,
)
from pcapdaemon.plan import CapturePlan

#: How long packets that the kernel has may stay unseen, in seconds: the time-out
#: of a ring block, twice where it had just begun when it was last looked at.
UNSEEN = 0.02

#: After the ring was closed to further packets, all that it holds can be seen
#: within this time, in seconds.
SETTLE = 0.03

#: How often that is waited for, where the kernel's counters say that something is
#: still to come: on a machine that has no time for its timers it comes late.
_SETTLES = 3

#: How often the drops of a capture that runs are looked up, in seconds.
COUNTING = 1.0

#: After a drain that brought as many packets as this the ring fills fast, and is
#: left alone for a while so that the next drain brings more at once.
BUSY_DRAIN = 256

#: The most bytes a second that a ring is reckoned to take (10 Gbit/s), and the
#: longest that it is left alone, in seconds.
_RING_RATE, _LONGEST_PAUSE = 1.25e9, 0.015


@attrs.frozen
class Threads:
    """
    Where the blocking parts of a capture run: each calls a function in a
    thread and returns a Deferred of its result.

    @ivar opening: Opens devices.
    @ivar closing: Closes them.
    @ivar draining: Moves packets.
    @ivar work: Everything else that takes long.
    """

    opening: Callable[..., Deferred[Any]]
    closing: Callable[..., Deferred[Any]]
    draining: Callable[..., Deferred[Any]]
    work: Callable[..., Deferred[Any]]


@implementer(IReadDescriptor)
class Capture:
    """
    A capture whose device is open.

    @ivar armed: Since when packets are taken, seconds since the epoch.
    @ivar packets: Packets recorded so far.
    @ivar size: Bytes of the file so far.
    @ivar drops: The counters as they were when packets last came, a second ago
        at most.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        threads: Threads,
        plan: CapturePlan,
        handle: ICaptureHandle,
        ring: int,
        memory: MemoryBudget,
        clock: Callable[[], float],
    ) -> None:
        """
        @param reactor: C{IReactorFDSet} and C{IReactorTime}.
        @param handle: The open device. Closing it is left to the caller.
        @param ring: Bytes of its ring.
        @param memory: What recordings may use in all. Of this capture's share
            the part that ends up in the recording stays taken.
        @param clock: Seconds since the epoch.
        """
        self._reactor = reactor
        self._threads = threads
        self._plan = plan
        self._handle = handle
        self._memory = memory
        self._clock = clock
        pause = min(_LONGEST_PAUSE, ring / 2 / _RING_RATE)
        self._pause = pause if pause >= 0.001 else 0.0
        self.armed = 0.0
        self.packets = 0
        self.size = 0
        self.drops = Drops()
        self._counted = 0.0  # when, on the reactor's clock
        self._began = 0.0  # likewise
        self._finished = 0.0
        self._seen = 0.0  # when packets last waited, on the reactor's clock
        self._limit = ""
        self._stop = ""
        self._failure: Failure | None = None
        self._stopped: Deferred[None] = Deferred()
        self._file: MemoryFile | None = None
        self._handling = DeferredLock()
        self._calls: dict[str, IDelayedCall] = {}

    async def run(self) -> Recording:
        """
        Take packets until one of the limits is reached or L{stop} is called.

        @raise CaptureError: It was impossible to go on; nothing is kept.
        """
        self._reactor.addReader(self)
        self.armed = self._clock()
        self._seen = self._began = self._reactor.seconds()
        self._later("duration", self._plan.duration, self.stop, Stop.DURATION)
        self._later("timeout", self._plan.timeout, self._idle, False)
        try:
            await self._stopped
            if not self._limit and self._failure is None:
                await self._takeRest()
            if self._failure is not None:
                self._failure.raiseException()
            drops, size = await self._ask(self._seal)
            self._grow(size)
            if not self.packets:
                self._discard()
            sha256 = ""
            if self._file is not None:
                sha256 = await self._threads.work(self._file.digest)
        except Exception:
            # Not while a drain writes into what is given up.
            await self._handling.acquire()
            self._discard()
            raise
        return Recording(
            self._plan,
            self._handle.linkType,
            self.armed,
            self._finished,
            self.packets,
            self.size,
            drops,
            self._limit or self._stop,
            sha256,
            self._file,
        )

    @property
    def elapsed(self) -> float:
        """Seconds since it was armed."""
        seconds: float = self._reactor.seconds() - self._began
        return seconds

    def stop(self, reason: str) -> None:
        """
        End the capture with what the kernel has delivered until now. The first
        reason stands; later calls do nothing.

        @param reason: One of the words of L{Stop}.
        """
        if not self._stop:
            self._stop = reason
            self._halt()
            self._stopped.callback(None)

    def _halt(self) -> None:
        self._finished = self._clock()
        self._reactor.removeReader(self)
        for call in self._calls.values():
            if call.active():
                call.cancel()
        try:
            self._handle.freeze()
        except OSError as error:
            # Of a device that is gone nothing more comes anyway.
            self._log.debug("{id}: {error}", id=self._plan.id, error=error)

    # What the reactor calls.

    def fileno(self) -> int:
        return self._handle.fileno()

    def logPrefix(self) -> str:
        return f"capture {self._plan.id}"

    def doRead(self) -> None:
        self._reactor.removeReader(self)
        self._read()

    def _read(self) -> None:
        seen = self._reactor.seconds()
        self._drain().addCallback(self._drained, seen).addErrback(self._broken)

    def connectionLost(self, reason: Failure) -> None:
        # The descriptor has an error and the reactor has let go of it. A drain
        # learns which error, after it has taken what is left.
        if not self._stop:
            self._read()

    def _later(self, name: str, delay: float, f: Callable[..., Any], *a: Any) -> None:
        self._calls[name] = self._reactor.callLater(delay, f, *a)

    def _idle(self, waited: bool) -> None:
        """
        The idle limit may have been reached; packets that came since put it off.

        @param waited: Whether those that the kernel had have been waited for.
        """
        due = self._seen + self._plan.timeout - self._reactor.seconds()
        if due > 0:
            self._later("timeout", due, self._idle, False)
        elif self._handling.locked:
            self._later("timeout", UNSEEN, self._idle, waited)
        elif waited:
            self.stop(Stop.TIMEOUT)
        else:
            d = self._ask(self._handle.pending)
            d.addCallbacks(self._idleUnless, self._broken)

    def _idleUnless(self, pending: bool) -> None:
        if self._stop:
            return
        if pending:
            self._later("timeout", UNSEEN, self._idle, True)
        else:
            self.stop(Stop.TIMEOUT)

    # Draining.

    def _ask(self, f: Callable[[], Any]) -> Deferred[Any]:
        return self._handling.run(self._threads.draining, f)

    def _drain(self) -> Deferred[Drained]:
        d: Deferred[Drained] = self._handling.run(self._takeAndAccount)
        return d

    def _takeAndAccount(self) -> Deferred[Drained]:
        # In one, or a drain that waits for this one would begin before it is
        # known how much this one has left.
        return self._threads.draining(self._take).addCallback(self._account)

    def _take(self) -> Drained:
        """
        In the capture thread.
        """
        if self._failure is not None:
            return Drained(0, self.size, False)
        if self._file is None:
            self._file = MemoryFile(self._plan.filename)
            self._handle.record(self._file.fileno())
        wanted = self._plan.packets - self.packets
        drained = self._handle.drain(wanted, self._plan.size)
        now = self._reactor.seconds()
        if now - self._counted >= COUNTING:
            self._counted = now
            self.drops = self._handle.drops()
        return drained

    def _account(self, drained: Drained) -> Drained:
        self.packets += drained.packets
        self._grow(drained.size)
        if self.packets >= self._plan.packets:
            self._limit = Stop.PACKETS
        elif drained.full:
            self._limit = Stop.BYTES
        return drained

    def _drained(self, drained: Drained, seen: float) -> None:
        if drained.packets:
            self._seen = seen
        if self._stop:
            return  # run() takes what is left
        if self._limit:
            self.stop(self._limit)
        elif self._memory.spent:
            self.stop(Stop.MEMORY)
        elif drained.more:
            self._read()
        elif self._pause and drained.packets >= BUSY_DRAIN:
            # Without asking whether there is something: there will be.
            self._later("pause", self._pause, self._read)
        else:
            self._reactor.addReader(self)

    def _broken(self, failure: Failure) -> None:
        """
        A drain failed: the device is lost, or the capture is.
        """
        if failure.check(InterfaceLost):
            self.stop(Stop.INTERFACE_LOST)
        else:
            # Also when the capture was being stopped: what this drain had to
            # bring is missing.
            self._failure = failure
            self.stop("failed")

    async def _takeRest(self) -> None:
        """
        Take what the kernel delivered before the stop: what can be seen, and
        then what it had yet to hand over.
        """
        for wait in (0.0, *[SETTLE] * _SETTLES):
            if self._limit or not await self._ask(self._handle.pending):
                return
            if self._failure is not None:
                return
            if wait:
                await deferLater(self._reactor, wait)
            await self._drainRest()

    async def _drainRest(self) -> None:
        losses = 0
        while not self._limit:
            try:
                if not (await self._drain()).packets:
                    return
            except InterfaceLost:
                # Said when the ring was found empty; what the kernel had yet to
                # hand over may follow.
                losses += 1
                if losses > 1:
                    return

    def _seal(self) -> tuple[Drops, int]:
        """
        In the capture thread: the file is complete.
        """
        if self._file is None:
            return self._handle.drops(), 0
        self._handle.flush()
        return self._handle.drops(), self._file.size

    def _grow(self, size: int) -> None:
        self._memory.take(size - self.size)
        self.size = size

    def _discard(self) -> None:
        self._grow(0)
        if self._file is not None:
            self._file.close()
            self._file = None
