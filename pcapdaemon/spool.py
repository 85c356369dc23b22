# See LICENSE for details.
"""
What sinks would not take, kept on disk until they do.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import attrs

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from pcapdaemon.capture.recording import Recording
from pcapdaemon.delivery import attempt, backoff, tellFailed, tellStored
from pcapdaemon.events import Events
from pcapdaemon.interfaces import ISink, StoreError
from pcapdaemon.spoolfiles import Damaged, Entry, SpoolFiles

#: Seconds until a sink that failed is tried again, first and at most. What it
#: would not take waits longer than the sink itself, so that one recording that
#: never gets through does not stand in the way of others...
_SINK = 1.0, 60.0
_RECORDING = 1.0, 600.0
#: ...and longer still where the sink has refused it for good.
_REFUSED = 60.0, 600.0
#: Seconds that an attempt may go on when the service stops.
_LAST = 2.0
#: Seconds between looks at how old things are.
_SWEEP = 60.0


@attrs.define(eq=False)
class _Item:
    """
    One recording that waits for one sink.

    @ivar spooled: When it came, in seconds since the epoch.
    @ivar failures: How many attempts have failed.
    @ivar due: When the next one may be, by the reactor's clock.
    @ivar error: Why the last one failed.
    """

    name: str
    spooled: float
    failures: int = 0
    due: float = 0.0
    error: str = ""


@attrs.define(eq=False)
class _Queue:
    """
    What waits for one sink.

    @ivar items: By name, oldest first.
    @ivar failures: How many attempts have failed since one did not.
    @ivar due: When the next one may be.
    @ivar busy: Whether it is doing what it can do now.
    @ivar attempt: The one that is under way...
    @ivar current: ...and what for.
    @ivar call: Wakes this queue up.
    """

    sink: str
    items: dict[str, _Item] = attrs.Factory(dict)
    failures: int = 0
    due: float = 0.0
    busy: bool = False
    attempt: Deferred[str] | None = None
    current: _Item | None = None
    call: IDelayedCall | None = None

    def next(self, now: float) -> _Item | None:
        """The oldest that may be tried now."""
        if self.due > now:
            return None
        return next((item for item in self.items.values() if item.due <= now), None)

    def wake(self) -> float:
        """When there will be one."""
        return max(self.due, min(item.due for item in self.items.values()))


class Spool(Service):
    """
    Keeps recordings in a directory, and gives them to their sinks again and
    again: for each sink one at a time, the oldest first. A recording leaves when
    all sinks that did not have it do, or when it is too old.

    A sink gets what it got before, under the same name, also after a restart.

    @ivar maxsize: The most bytes of all recordings; more are refused.
    @ivar maxage: Seconds after which a recording is dropped.
    @ivar retries: How many attempts were made, by sink: none of them is the
        recording's first.
    """

    _log = Logger()

    def __init__(
        self,
        directory: str,
        maxsize: int,
        maxage: float,
        events: Events,
        work: Callable[..., Deferred[Any]],
        reactor: IReactorTime,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """
        @param directory: Made when it does not exist; for this daemon alone.
        @param work: Calls a function in a worker thread.
        @param clock: Seconds since the epoch.
        @param jitter: Gives numbers from 0 to 1.
        """
        self.maxsize = maxsize
        self.maxage = maxage
        self.retries: Counter[str] = Counter()
        self._files = SpoolFiles(directory)
        self._events = events
        self._work = work
        self._reactor = reactor
        self._clock = clock
        self._jitter = jitter
        self._sinks: Sequence[ISink] = ()
        self._queues: dict[str, _Queue] = {}
        #: Files are changed by one job at a time.
        self._lock = DeferredLock()
        #: What a stop has to wait for.
        self._tasks: set[Deferred[None]] = set()
        self._sweeps = LoopingCall(self._sweep)
        self._sweeps.clock = reactor

    @property
    def sinks(self) -> Sequence[ISink]:
        """
        Who can get what waits here. What waits for another one stays.
        """
        return self._sinks

    @sinks.setter
    def sinks(self, sinks: Sequence[ISink]) -> None:
        old, self._sinks = self._sinks, sinks
        for queue in self._queues.values():
            if self._sink(queue) not in old:
                # Somebody may have mended what was wrong.
                queue.failures, queue.due = 0, 0.0
                for item in queue.items.values():
                    item.due = 0.0
            self._go(queue)

    @property
    def waiting(self) -> dict[str, int]:
        """How many recordings wait for each sink."""
        return {
            queue.sink: len(queue.items)
            for queue in self._queues.values()
            if queue.items
        }

    @property
    def used(self) -> int:
        """Bytes on disk, those of damaged entries included."""
        return self._files.used

    # Life.

    def startService(self) -> None:
        """
        @raise StartError: The directory cannot be used, or another daemon does.
        """
        self._files.open()
        super().startService()
        self._queues = {}
        self._task(self._scan())

    async def _scan(self) -> None:
        found = await self._change(self._files.scan)
        for spooled, name, sinks in found:
            for sink in sinks:
                self._queue(sink).items[name] = _Item(name, spooled)
        if found:
            self._log.info(
                "spool: {waiting} waiting, {used} bytes",
                waiting=self.waiting,
                used=self.used,
            )
        if self.running:
            # Looks at once, and so lets nothing go out that is too old.
            self._sweeps.start(_SWEEP)
            for queue in self._queues.values():
                self._go(queue)

    def stopService(self) -> Deferred[None]:
        """
        To be called when nobody adds any more.

        @return: Fires when the directory is free for another daemon.
        """
        super().stopService()
        if self._sweeps.running:
            self._sweeps.stop()
        for queue in self._queues.values():
            self._rest(queue)
            if queue.attempt is not None:
                queue.attempt.addTimeout(_LAST, self._reactor)
        done: Deferred[None] = Deferred()

        def free(_: object) -> None:
            self._files.close()
            done.callback(None)

        DeferredList(list(self._tasks)).addCallback(free)
        return done

    def _track(self, work: Coroutine[Deferred[Any], Any, None]) -> Deferred[None]:
        task = Deferred.fromCoroutine(work)
        self._tasks.add(task)

        def done(result: Any) -> Any:
            self._tasks.discard(task)
            return result

        return task.addBoth(done)

    def _task(self, work: Coroutine[Deferred[Any], Any, None]) -> Deferred[None]:
        return self._track(work).addErrback(
            lambda failure: self._log.failure("spool", failure=failure)
        )

    def add(self, recording: Recording, sink: str, error: StoreError) -> Deferred[None]:
        """
        Keep a recording for a sink.

        @param error: Why the sink does not have it.
        @return: Fires when it is safe, and the recording itself is not needed
            any more. It fails with L{StoreError}: it is not there.
        """
        return self._track(self._add(recording, sink, error))

    async def _add(self, recording: Recording, sink: str, error: StoreError) -> None:
        if not self.running:
            raise StoreError("not spooled: the spool is closed", True)
        name, now = recording.filename, self._clock()
        spooled = await self._change(
            self._files.save, recording, sink, now, self.maxsize
        )
        queue = self._queue(sink)
        queue.items[name] = item = _Item(name, spooled)
        self._failed(queue, item, error)
        self._go(queue)

    # Files.

    def _change(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return self._lock.run(self._work, function, *args)

    async def _forget(self, name: str, sink: str) -> None:
        try:
            await self._change(self._files.forget, name, sink)
        except OSError as error:
            # At worst the sink gets it once more after a restart.
            self._log.error("spool: {error}", error=error)

    async def _setAside(self, name: str, damaged: Damaged) -> None:
        for queue in self._queues.values():
            if queue.items.pop(name, None) is not None and damaged.entry is not None:
                recording = damaged.entry.recording
                reason = f"damaged in the spool and set aside there: {damaged}"
                tellFailed(self._events, recording, queue.sink, reason, True)
        await self._change(self._files.setAside, name, damaged)

    # Attempts.

    def _queue(self, sink: str) -> _Queue:
        return self._queues.setdefault(sink, _Queue(sink))

    def _sink(self, queue: _Queue) -> ISink | None:
        return next((each for each in self._sinks if each.name == queue.sink), None)

    def _rest(self, queue: _Queue) -> None:
        if queue.call is not None:
            queue.call.cancel()
            queue.call = None

    def _go(self, queue: _Queue) -> None:
        """
        Let a queue do what it can do now, and wake up when it can do more.
        """
        if queue.busy:
            return
        self._rest(queue)
        if not self.running or not queue.items or self._sink(queue) is None:
            return
        now = self._reactor.seconds()
        if queue.next(now) is None:
            # In steps, since what is years away need not be a timer.
            pause = min(queue.wake() - now, _REFUSED[1])
            queue.call = self._reactor.callLater(pause, self._woken, queue)
            return
        queue.busy = True
        self._task(self._drain(queue)).addCallback(lambda _: self._drained(queue))

    def _woken(self, queue: _Queue) -> None:
        queue.call = None
        self._go(queue)

    def _drained(self, queue: _Queue) -> None:
        queue.busy = False
        self._go(queue)

    async def _drain(self, queue: _Queue) -> None:
        while self.running:
            sink, item = self._sink(queue), queue.next(self._reactor.seconds())
            if sink is None or item is None:
                return
            queue.current = item
            try:
                await self._redeliver(queue, item, sink)
            except Exception as error:
                self._log.failure("spool: {name}", name=item.name)
                self._failed(queue, item, StoreError(repr(error), True))
            finally:
                queue.current = None

    async def _redeliver(self, queue: _Queue, item: _Item, sink: ISink) -> None:
        try:
            entry: Entry = await self._change(self._files.load, item.name)
            await self._work(self._files.verify, entry)
        except Damaged as damaged:
            await self._setAside(item.name, damaged)
            return
        except FileNotFoundError:
            self._log.warn("spool: {name} is gone", name=item.name)
            queue.items.pop(item.name, None)
            return
        except OSError as error:
            said = f"{self._files.directory}: {error.strerror or error}"
            self._failed(queue, item, StoreError(said, True))
            return
        if not self.running:
            return
        self.retries[queue.sink] += 1
        queue.attempt = Deferred.fromCoroutine(attempt(sink, entry.recording))
        try:
            url = await queue.attempt
        except StoreError as error:
            self._failed(queue, item, error)
            return
        finally:
            queue.attempt = None
        queue.failures, queue.due = 0, 0.0
        queue.items.pop(item.name, None)
        # Before it is forgotten: better said twice than never.
        tellStored(self._events, entry.recording, sink.name, url)
        await self._forget(item.name, sink.name)

    def _failed(self, queue: _Queue, item: _Item, error: StoreError) -> None:
        """
        Let sink and recording rest.
        """
        now, spread = self._reactor.seconds(), self._jitter()
        asked = error.delay
        item.failures += 1
        item.error = str(error)
        first, most = _RECORDING if error.transient else _REFUSED
        item.due = now + backoff(item.failures, first, most, spread, asked)
        if queue.due <= now:
            queue.failures += 1
            first, most = _SINK
            pause = backoff(queue.failures, first, most, spread, None)
            # What the other side asks for holds for everything that it gets.
            queue.due = now + max(pause, min(asked or 0.0, _RECORDING[1]))
        self._log.warn(
            "{sink}: {name} stays in the spool: {error}",
            sink=queue.sink,
            name=item.name,
            error=item.error,
        )

    # Age.

    def _sweep(self) -> Deferred[Any]:
        oldest = self._clock() - self.maxage
        drops = []
        for queue in self._queues.values():
            for item in list(queue.items.values()):
                if item.spooled <= oldest and item is not queue.current:
                    del queue.items[item.name]
                    drops.append(self._task(self._drop(queue, item)))
        return DeferredList(drops)

    async def _drop(self, queue: _Queue, item: _Item) -> None:
        reason = f"not stored within maxage = {self.maxage} s"
        if item.error:
            reason = f"{reason}: {item.error}"
        try:
            entry: Entry = await self._change(self._files.load, item.name)
        except Damaged as damaged:
            await self._setAside(item.name, damaged)
            return
        except OSError as error:
            self._log.error(
                "spool: {name}: {reason}: {error}",
                name=item.name,
                reason=reason,
                error=error,
            )
            return
        tellFailed(self._events, entry.recording, queue.sink, reason, True)
        await self._forget(item.name, queue.sink)
