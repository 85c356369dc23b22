# See LICENSE for details.
"""
One recording, every sink: tried again while that makes sense, then left to the
spool, or lost.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    maybeDeferred,
)
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from pcapdaemon.capture.recording import Recording
from pcapdaemon.events import Events
from pcapdaemon.interfaces import ISink, StoreError

if TYPE_CHECKING:
    from pcapdaemon.spool import Spool

_log = Logger()


@attrs.frozen
class Patience:
    """
    How long a recording stays in memory for a sink that fails.

    @ivar tries: The most attempts.
    @ivar seconds: How long after the first one the last may begin.
    @ivar first: Seconds between the first two; each pause doubles.
    @ivar most: The longest pause, also where the other side asks for a longer.
    """

    tries: int
    seconds: float
    first: float = 1.0
    most: float = 60.0


#: Without a spool: at least a minute, as long as it gets better at all.
ALONE = Patience(tries=8, seconds=300.0)
#: With one: what takes longer need not take memory.
WITH_SPOOL = Patience(tries=2, seconds=10.0)


def backoff(
    failures: int, first: float, most: float, spread: float, asked: float | None
) -> float:
    """
    Seconds to wait after an attempt has failed.

    @param failures: How many have failed one after the other.
    @param spread: From 0 to 1: a random part of the latter half is left out, so
        that a fleet does not come back at once.
    @param asked: What the other side wants waited.
    """
    doubled = min(first * 2.0 ** min(failures - 1, 30), most)
    return max(doubled * (0.5 + spread / 2), min(asked or 0.0, most))


async def attempt(sink: ISink, recording: Recording) -> str:
    """
    Store a recording, once.

    @return: Where it now is.
    @raise StoreError: It is not there, whatever the sink did.
    """
    try:
        return await maybeDeferred(sink.store, recording)
    except StoreError:
        raise
    except CancelledError:
        raise StoreError("cut off", True) from None
    except Exception as error:
        _log.failure("{sink} failed", sink=sink.name)
        raise StoreError(str(error) or repr(error), False) from None


def tellStored(events: Events, recording: Recording, sink: str, url: str) -> None:
    """
    Say that a sink has a recording.
    """
    plan = recording.plan
    about = attrs.asdict(plan.request, recurse=False)
    filename = recording.filename
    events.emit("stored", plan.id, about, sink=sink, url=url, filename=filename)


def tellFailed(
    events: Events,
    recording: Recording,
    sink: str,
    reason: str,
    lost: bool,
    attempts: int | None = None,
) -> None:
    """
    Say that a sink does not have a recording.

    @param lost: Whether it never will.
    @param attempts: How many were made, where this is known.
    """
    plan = recording.plan
    events.emit(
        "failed",
        plan.id,
        attrs.asdict(plan.request, recurse=False),
        stage="store",
        interface=plan.device,
        alias=plan.alias,
        sink=sink,
        filename=recording.filename,
        reason=reason,
        attempts=attempts,
        lost=lost,
    )


@attrs.define(eq=False)
class _Job:
    """
    One recording on its way to one sink.

    @ivar waiting: The attempt or the pause that is under way.
    @ivar attempting: Whether it is an attempt.
    @ivar error: Why the last one failed.
    @ivar over: Whether it has been said to be lost.
    """

    recording: Recording
    sink: str
    attempts: int = 0
    waiting: Deferred[str] | Deferred[None] | None = None
    attempting: bool = False
    error: str = ""
    over: bool = False


class Delivery:
    """
    Hands recordings to all sinks at once. What happens at one sink neither
    stops nor delays another.

    @ivar sinks: Where the next recording goes. A further attempt goes to the
        sink that then has the name.
    @ivar spool: Takes what a sink does not; L{None} for none, and then it is
        lost.
    @ivar retries: How many attempts were not the first one, by sink.
    """

    def __init__(
        self,
        sinks: Sequence[ISink],
        events: Events,
        clock: IReactorTime,
        jitter: Callable[[], float] = random.random,
        spool: Spool | None = None,
    ) -> None:
        """
        @param jitter: Gives numbers from 0 to 1.
        """
        self.sinks = sinks
        self.spool = spool
        self.retries: Counter[str] = Counter()
        self._events = events
        self._clock = clock
        self._jitter = jitter
        #: In the order in which they were sent.
        self._jobs: dict[_Job, None] = {}
        #: When closing cuts attempts off.
        self._deadline: float | None = None

    def deliver(self, recording: Recording) -> Deferred[None]:
        """
        @return: Fires when nobody needs the recording any more. It does not
            fail: what a sink does not have is told as C{failed}.
        """
        if not self.sinks:
            tellFailed(self._events, recording, "", "no sink is on", True)
        return DeferredList(
            [
                Deferred.fromCoroutine(self._deliver(_Job(recording, sink.name), sink))
                for sink in self.sinks
            ]
        ).addCallback(lambda _: None)

    def close(self, seconds: float) -> None:
        """
        There is not much time left. With a spool, what waits for its next
        attempt goes there now, and what a sink does not have in a while goes
        there too; without one, what waits is tried at once.

        @param seconds: How long an attempt may yet take if there is a spool.
        """
        self._deadline = self._clock.seconds() + seconds
        for job in list(self._jobs):
            if job.attempting:
                self._limit(job)
            elif job.waiting is not None:
                job.waiting.cancel()

    def abandon(self, reason: str) -> None:
        """
        Nobody can wait any longer: say of everything that has not arrived that
        it is lost.
        """
        for job in list(self._jobs):
            self._lost(job, f"{reason}: {job.error}" if job.error else reason)
            if job.waiting is not None and not job.attempting:
                job.waiting.cancel()

    async def _deliver(self, job: _Job, sink: ISink) -> None:
        self._jobs[job] = None
        try:
            error = await self._persist(job, sink)
            if error is not None and not job.over:
                await self._leave(job, error)
        finally:
            del self._jobs[job]

    async def _persist(self, job: _Job, sink: ISink) -> StoreError | None:
        """
        Try until it is there or there is no use in it.

        @return: Why it is not there.
        """
        began = self._clock.seconds()
        while True:
            result = await self._attempt(job, sink)
            if not isinstance(result, StoreError):
                if not job.over:
                    tellStored(self._events, job.recording, job.sink, result)
                return None
            pause = self._pause(job, result, self._clock.seconds() - began)
            if pause is not None and not job.over:
                _log.warn(
                    "{sink}: {name} not stored, again in {pause:.1f} s: {error}",
                    sink=job.sink,
                    name=job.recording.filename,
                    pause=pause,
                    error=str(result),
                )
                await self._wait(job, pause)
            current = [each for each in self.sinks if each.name == job.sink]
            if pause is None or job.over or self._hasty or not current:
                return result
            if sink not in current:
                sink = current[0]

    @property
    def _hasty(self) -> bool:
        """Whether the spool gets what does not arrive at once."""
        return self._deadline is not None and self.spool is not None

    async def _attempt(self, job: _Job, sink: ISink) -> str | StoreError:
        if job.attempts:
            self.retries[job.sink] += 1
        job.attempts += 1
        job.waiting = stored = Deferred.fromCoroutine(attempt(sink, job.recording))
        job.attempting = True
        self._limit(job)
        try:
            return await stored
        except StoreError as error:
            job.error = str(error)
            return error
        finally:
            job.waiting, job.attempting = None, False

    async def _wait(self, job: _Job, seconds: float) -> None:
        pause: Deferred[None] = deferLater(self._clock, seconds)
        job.waiting = pause
        try:
            await pause
        except CancelledError:
            pass  # on with it: somebody has no time
        finally:
            job.waiting = None

    def _limit(self, job: _Job) -> None:
        if self._deadline is not None and self.spool is not None and job.waiting:
            left = max(0.0, self._deadline - self._clock.seconds())
            job.waiting.addTimeout(left, self._clock)

    def _pause(self, job: _Job, error: StoreError, passed: float) -> float | None:
        """
        @param passed: Seconds since the first attempt.
        @return: Seconds until the next one; L{None} where there is no next one.
        """
        patience = ALONE if self.spool is None else WITH_SPOOL
        if not error.transient or job.attempts >= patience.tries or self._hasty:
            return None
        pause = backoff(
            job.attempts, patience.first, patience.most, self._jitter(), error.delay
        )
        return pause if passed + pause <= patience.seconds else None

    async def _leave(self, job: _Job, error: StoreError) -> None:
        """
        Give up here.
        """
        if self.spool is None:
            self._lost(job, str(error))
            return
        while not self.spool.running and self._deadline is None:
            # Another one is about to take its place.
            await deferLater(self._clock, 0.1)
        try:
            await self.spool.add(job.recording, job.sink, error)
        except Exception as refusal:
            self._lost(job, f"{error}; {refusal}")
            return
        if not job.over:
            tellFailed(
                self._events, job.recording, job.sink, str(error), False, job.attempts
            )

    def _lost(self, job: _Job, reason: str) -> None:
        if not job.over:
            job.over = True
            tellFailed(
                self._events, job.recording, job.sink, reason, True, job.attempts
            )
