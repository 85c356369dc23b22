# See LICENSE for details.
"""
All captures of the daemon: admission, opening, the end of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.logger import Logger

from pcapdaemon.capture.budget import MemoryBudget, RingBudget
from pcapdaemon.capture.capture import Capture, Threads
from pcapdaemon.capture.recording import Recording
from pcapdaemon.events import Events, timestamp
from pcapdaemon.interfaces import (
    CaptureError,
    ICaptureHandle,
    ICaptureSystem,
    IFilterChecker,
    LinkTypeMismatch,
    OpenOptions,
    Reason,
    Refused,
    Stop,
)
from pcapdaemon.plan import CapturePlan


@attrs.frozen
class Capacity:
    """
    How much all captures together may use, and how devices are opened.

    @ivar captures: Captures at once.
    @ivar buffersize: Bytes of the largest kernel ring.
    @ivar totalbuffer: Bytes of all kernel rings.
    @ivar memory: Bytes of all recordings, running and waiting for sinks.
    @ivar promiscuous: Whether devices are asked for foreign packets too.
    @ivar nanoseconds: Whether time stamps are that fine, not microseconds.
    """

    captures: int
    buffersize: int
    totalbuffer: int
    memory: int
    promiscuous: bool = False
    nanoseconds: bool = False


@attrs.define
class _Running:
    """
    A capture that has been admitted, its device open or not yet.

    @ivar linkType: What the filter of the plan was checked for.
    @ivar told: The seconds and packets of its last C{progress}.
    """

    plan: CapturePlan
    linkType: int
    capture: Capture | None = None
    stop: str = ""
    told: tuple[float, int] = (0.0, 0)


class CaptureService(Service):
    """
    Runs captures.

    @ivar memory: The budget that recordings count against until released.
    @ivar rings: The budget that kernel rings come from.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        threads: Threads,
        system: ICaptureSystem,
        checker: IFilterChecker,
        events: Events,
        capacity: Capacity,
        examine: Callable[[Recording], Deferred[None]],
        deliver: Callable[[Recording], Deferred[None]],
        clock: Callable[[], float],
        destinations: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """
        @param reactor: C{IReactorFDSet} and C{IReactorTime}.
        @param examine: Looks at a finished recording that has packets before it
            is delivered; it fails with L{CaptureError} where that must not be.
        @param deliver: Takes a finished recording that has packets; its
            Deferred fires when nobody needs it any more.
        @param clock: Seconds since the epoch.
        @param destinations: The names of those that C{deliver} hands it to.
        """
        self._reactor = reactor
        self._threads = threads
        self._destinations = destinations
        self._system = system
        self._checker = checker
        self._events = events
        self._examine = examine
        self._deliver = deliver
        self._clock = clock
        self._capacity = capacity
        self.rings = RingBudget(
            capacity.totalbuffer, capacity.buffersize, capacity.captures
        )
        self.memory = MemoryBudget(capacity.memory)
        self._running: dict[str, _Running] = {}
        #: What would be lost without a word if everything ended now.
        self._ours: dict[str, CapturePlan] = {}
        self._busy: set[Deferred[None]] = set()
        self._handles = 0
        self._closing = False

    def configure(self, capacity: Capacity) -> None:
        """
        Go by other figures from now on; what runs is not touched.
        """
        self._capacity = capacity
        self.rings.resize(capacity.totalbuffer, capacity.buffersize, capacity.captures)
        self.memory.total = capacity.memory

    # Admission.

    def admit(self, captures: int) -> None:
        """
        See whether so many more captures may start now.

        @raise Refused: C{busy} or C{closing}.
        """
        if self._closing:
            raise Refused(Reason.CLOSING, "the daemon is shutting down")
        most = self._capacity.captures
        if self._handles + captures > most:
            raise Refused(
                Reason.BUSY,
                f"{captures} more would exceed maxcaptures = {most}: "
                f"{self._handles} captures are running",
            )
        if len(self._busy) + captures > 2 * most:
            raise Refused(
                Reason.BUSY,
                f"{len(self._busy)} captures run or wait for their sinks; allowed "
                f"are twice maxcaptures = {most}",
            )
        if self.memory.spent:
            raise Refused(
                Reason.BUSY,
                f"recordings hold {self.memory.used} bytes, memory = "
                f"{self.memory.total}",
            )

    def start(self, plan: CapturePlan, linkType: int) -> None:
        """
        Begin a capture that L{admit} has let in.

        @param linkType: The C{DLT_} number that its filter was checked for.
        """
        running = self._running[plan.id] = _Running(plan, linkType)
        self._ours[plan.id] = plan
        self._handles += 1
        d = Deferred.fromCoroutine(self._run(running))
        self._busy.add(d)
        d.addErrback(
            lambda failure: self._log.failure("{id}", failure=failure, id=plan.id)
        )
        d.addBoth(lambda _: self._busy.discard(d))

    # What others see and do.

    @property
    def active(self) -> int:
        """How many captures run; those that are being opened are among them."""
        return len(self._running)

    @property
    def most(self) -> int:
        """How many captures there may be at once."""
        return self._capacity.captures

    def cancel(self, id: str) -> bool:
        """
        End a capture as C{cancelled}; it keeps what it holds.

        @return: Whether it was running.
        """
        running = self._running.get(id)
        if running is None:
            return False
        self._stop(running, Stop.CANCELLED)
        return True

    def cancelNamed(self, name: str) -> tuple[str, ...]:
        """
        End all captures of a request as C{cancelled}.

        @param name: Its C{request_id}, or the identifier of one capture.
        @return: The identifiers of those that were running.
        """
        ids = tuple(
            id
            for id, running in self._running.items()
            if name in (id, running.plan.request.request_id)
        )
        for id in ids:
            self.cancel(id)
        return ids

    def progress(self) -> dict[str, dict[str, Any]]:
        """
        Packets and bytes of every running capture, by identifier; once it is
        armed, the seconds since then and its drops, too.
        """
        return {
            id: {"packets": 0, "bytes": 0}
            if (capture := running.capture) is None
            else {
                "elapsed": round(capture.elapsed, 3),
                "packets": capture.packets,
                "bytes": capture.size,
                "dropped": attrs.asdict(capture.drops),
            }
            for id, running in self._running.items()
        }

    def tell(self) -> None:
        """
        Say C{progress} of every capture that is armed.
        """
        for id, progress in self.progress().items():
            if "elapsed" not in progress:
                continue
            running = self._running[id]
            seconds, packets = running.told
            now = running.told = (progress["elapsed"], progress["packets"])
            passed = now[0] - seconds
            rate = round((now[1] - packets) / passed, 1) if passed > 0 else 0.0
            self._emit(running.plan, "progress", rate=rate, **progress)

    def close(self) -> None:
        """
        Refuse all further requests.
        """
        self._closing = True

    def stopService(self) -> Deferred[None]:
        """
        End everything as C{shutdown}.

        @return: Fires when every recording has been delivered or lost and every
            device closed. Cancelling it stops the waiting and nothing else.
        """
        super().stopService()
        self.close()
        for running in list(self._running.values()):
            self._stop(running, Stop.SHUTDOWN)
        done: Deferred[None] = Deferred()
        DeferredList(list(self._busy)).addCallback(lambda _: done.callback(None))
        return done

    def abandon(self, reason: str) -> None:
        """
        Nobody can wait any longer: say of every capture that has not reached
        its delivery that it is lost.
        """
        ours, self._ours = self._ours, {}
        for plan in ours.values():
            self._failed(plan, "capture", CaptureError(reason))

    def _stop(self, running: _Running, reason: str) -> None:
        if running.capture is not None:
            running.capture.stop(reason)
        elif not running.stop:
            running.stop = reason

    # One capture.

    async def _run(self, running: _Running) -> None:
        plan = running.plan
        ring = self.rings.take()
        handle: ICaptureHandle | None = None
        recording: Recording | None = None
        try:
            handle = await self._open(plan, running.linkType, ring)
            recording = await self._capture(running, handle, ring)
        except Exception as error:
            self._failed(plan, "capture", error)
        del self._running[plan.id]
        if recording is None or not recording.packets:
            self._ours.pop(plan.id, None)
        closed = self._release(handle, ring)
        if recording is not None:
            await self._store(recording)
        await closed

    async def _store(self, recording: Recording) -> None:
        stage = "decode"
        try:
            if recording.packets:
                await self._examine(recording)
                if self._ours.pop(recording.plan.id, None) is None:
                    return  # has been given up
                stage = "store"
                await self._deliver(recording)
        except Exception as error:
            self._ours.pop(recording.plan.id, None)
            self._failed(recording.plan, stage, error)
        finally:
            recording.close()
            self.memory.give(recording.size)

    def _failed(self, plan: CapturePlan, stage: str, error: Exception) -> None:
        if not isinstance(error, CaptureError):
            self._log.failure("capture {id} failed", id=plan.id)
        self._emit(plan, "failed", stage=stage, reason=str(error) or repr(error))

    async def _open(
        self, plan: CapturePlan, linkType: int, ring: int
    ) -> ICaptureHandle:
        filter = plan.filter
        while True:
            options = OpenOptions(
                plan.snaplength,
                ring,
                self._capacity.promiscuous,
                filter,
                linkType,
                plan.direction,
                self._capacity.nanoseconds,
            )
            try:
                handle: ICaptureHandle = await self._threads.opening(
                    self._openNow, plan.device, options
                )
                return handle
            except LinkTypeMismatch as mismatch:
                # Not what it looked like: what was found sound for another
                # link type may not be for this one.
                linkType = mismatch.linkType
                try:
                    filter = await self._checker.check(
                        plan.filter, linkType, plan.snaplength
                    )
                except Refused as refused:
                    raise CaptureError(refused.detail) from None

    def _openNow(self, device: str, options: OpenOptions) -> ICaptureHandle:
        """
        In the opening thread, perhaps long after it was asked for.
        """
        if self._closing:
            raise CaptureError("the daemon was shut down before the device was open")
        return self._system.open(device, options)

    async def _capture(
        self, running: _Running, handle: ICaptureHandle, ring: int
    ) -> Recording:
        plan = running.plan
        running.capture = capture = Capture(
            self._reactor, self._threads, plan, handle, ring, self.memory, self._clock
        )
        recorded = Deferred.fromCoroutine(capture.run())
        self._emit(plan, "armed", link=handle.linkType, ring=ring)
        if running.stop:
            capture.stop(running.stop)
        recording = await recorded
        self._emit(
            plan,
            "completed",
            link=recording.linkType,
            started=timestamp(recording.armed),
            finished=timestamp(recording.finished),
            packets=recording.packets,
            bytes=recording.size,
            dropped=attrs.asdict(recording.drops),
            stop=recording.stop,
            sha256=recording.sha256,
            filename=recording.filename if recording.packets else None,
            sinks=list(self._destinations()) if recording.packets else None,
        )
        return recording

    def _release(self, handle: ICaptureHandle | None, ring: int) -> Deferred[None]:
        """
        Give the device and its ring back. A capture that is being closed still
        counts, since its ring is still there.
        """
        closed: Deferred[None] = succeed(None)
        if handle is not None:
            closed = self._threads.closing(handle.close).addErrback(
                lambda failure: self._log.failure("closing failed", failure=failure)
            )

        def released(_: object) -> None:
            self.rings.give(ring)
            self._handles -= 1

        return closed.addCallback(released)

    def _emit(self, plan: CapturePlan, event: str, **fields: Any) -> None:
        self._events.emit(
            event,
            plan.id,
            attrs.asdict(plan.request, recurse=False),
            interface=plan.device,
            alias=plan.alias,
            **fields,
        )
