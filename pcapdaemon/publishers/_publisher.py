# See LICENSE for details.
"""
What all publishers have in common: a backlog with bounds, one batch after the
other, and patience.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from random import random
from secrets import token_hex
from typing import Any

import attrs
from zope.interface import implementer

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from pcapdaemon.events import Events
from pcapdaemon.interfaces import IEventObserver, IPublisher

#: Seconds that closing a connection may take at least.
LEAST = 0.2
#: Seconds between two attempts: the first, the last while the other side is
#: away, and the last where it says no.
FIRST, LAST, LAST_REFUSED = 0.2, 5.0, 30.0
#: The longest pause that the other side may ask for.
LAST_ASKED = 60.0
#: Seconds after which trouble that goes on is mentioned again.
REMIND = 60.0
#: Bytes that the events of a backlog may have on average.
AVERAGE = 4096
#: The part of the backlog that C{progress} may take.
PASSING = 0.1


class PublishError(Exception):
    """
    Not all of a batch could be published; what was is marked. The text holds no
    secret.

    @ivar refused: Whether somebody must change something, here or there.
    @ivar delay: Seconds that the other side asked to wait, if it did.
    """

    def __init__(
        self, text: str, refused: bool = False, delay: float | None = None
    ) -> None:
        super().__init__(text)
        self.refused = refused
        self.delay = delay


@attrs.define(eq=False)
class Item:
    """
    One event on its way.

    @ivar id: The capture.
    @ivar key: What tells it from all other events ever, however often it is sent.
    @ivar body: The event as JSON, in ASCII.
    @ivar missed: How many events before it were dropped.
    @ivar passing: Whether the next of its kind makes it obsolete.
    @ivar done: Whether it has arrived.
    @ivar refusal: Why it, and it alone, will never be taken; empty if it may.
    """

    id: str
    key: str
    body: bytes
    passing: bool = False
    missed: int = 0
    done: bool = False
    refusal: str = ""

    @property
    def data(self) -> bytes:
        """
        What to send.
        """
        if not self.missed:
            return self.body
        return b'{"missed":%d,' % self.missed + self.body[1:]


@implementer(IEventObserver, IPublisher)
class Publisher(Service):
    """
    Tells one outside system of every event, in order. Subclasses know how.

    One batch is under way at a time, and what of it does not arrive is sent again,
    before anything newer. So an event may arrive twice, and never too early. When
    the backlog is full its oldest event goes; the one that followed it then says
    C{missed}.

    @cvar most: The most events of a batch.
    @cvar mostBytes: The bytes with which a batch is full.
    @cvar longest: The most bytes of an event.
    @cvar apart: Whether a batch may hold only one event of a capture, since its
        parts may fail one by one.
    @cvar probes: Whether to find out at the start whether it would work, with an
        empty batch.
    @cvar patient: Whether one failure is no news: a connection may have been
        closed while nobody needed it.
    @ivar flush: Seconds that a stop lets what waits go out.
    @ivar ready: Whether L{send} may be called at all.
    """

    name: str
    most = 100
    mostBytes = 200_000
    longest = 1 << 30
    apart = False
    probes = False
    patient = False
    ready = True
    flush = 2.0
    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        events: Events,
        where: str,
        *,
        backlog: int = 10_000,
        progress: float = 0,
        jitter: Callable[[], float] = random,
    ) -> None:
        """
        @param reactor: The clock.
        @param where: What to call the other side in the log.
        @param backlog: The most events that wait.
        @param progress: Seconds between two C{progress} of a capture; 0 for none.
        @param jitter: Numbers from 0 to 1, so that a fleet does not come back at
            the same moment.
        """
        self.reactor = reactor
        self.connected = False
        self.published = 0
        self.dropped = 0
        self.where = where
        self._events = events
        self._backlog = backlog
        self._progress = progress
        self._jitter = jitter
        #: By capture, how long it had run when its last C{progress} was taken.
        self._told: dict[str, float] = {}
        self._run, self._number = token_hex(8), 0
        self._queue: deque[Item] = deque()
        self._size = 0
        #: How many were dropped since the last event that waits or is sent.
        self._missed = 0
        self._batch: Sequence[Item] = ()
        self._sending: Deferred[None] | None = None
        self._next: IDelayedCall | None = None
        self._proven = True
        self._failures = 0
        self._said = ("", 0.0)
        #: When the log said so last.
        self._full: float | None = None
        self._refused: float | None = None
        self._keeping = self._closed = False
        self._idle: Deferred[None] | None = None

    # What subclasses do.

    def connect(self) -> None:
        """
        Begin to connect, if that is to be done once.
        """

    async def send(self, batch: Sequence[Item]) -> None:
        """
        Send events, and mark each that has arrived, or will never be taken.

        @raise PublishError: Some are not marked.
        """
        raise NotImplementedError

    def disconnect(self) -> Deferred[None] | None:
        """
        Close what L{connect} or L{send} has opened.
        """
        return None

    # Life.

    @property
    def waiting(self) -> int:
        """
        How many events have yet to arrive.
        """
        return len(self._queue) + len(self._batch)

    def startService(self) -> None:
        """
        Take events from now on.
        """
        super().startService()
        self._keeping = self._closed = False
        self._failures = 0
        self._said, self._full = ("", 0.0), None
        self._proven = not self.probes
        self.connected = self.ready and self._proven
        self._events.add(self)
        self.connect()
        self.proceed()

    def keep(self) -> None:
        """
        Do not let what waits go out when stopped, for another publisher will
        L{inherit} it.
        """
        self._keeping = True

    def inherit(self, other: Publisher) -> None:
        """
        Take over what waits in another publisher, which was stopped, and its
        counters.
        """
        for item in reversed(other._queue):
            self._queue.appendleft(item)
            self._size += len(item.body)
        self.published += other.published
        self.dropped += other.dropped
        self._missed += other._missed
        other._queue.clear()
        other._size = 0
        self._trim()
        self.proceed()

    def stopService(self) -> Deferred[None]:
        """
        Let what waits go out, as far as C{flush} seconds suffice, and take what
        happens meanwhile, too. Then close the connection.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        end = self.reactor.seconds() + self.flush
        if self._batch or (self._queue and not self._keeping):
            idle = self._idle = Deferred()
            idle.addTimeout(self.flush, self.reactor, lambda _result, _seconds: None)
            self.proceed(now=True)
            await idle
            self._idle = None
        self._closed = True
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._sending is not None:
            self._sending.cancel()
        self.connected = False
        closed: Deferred[Any] = maybeDeferred(self.disconnect)
        # The other side may not let go of it.
        left = max(LEAST, end - self.reactor.seconds())
        closed.addTimeout(left, self.reactor, lambda _result, _seconds: None)
        try:
            await closed
        finally:
            # Not before: what happens meanwhile is for whoever inherits, or lost
            # and counted.
            self._events.remove(self)
        if self._queue and not self._keeping:
            self._log.error(
                "{count} events did not get to {where} before the end",
                count=len(self._queue),
                where=self.where,
            )
            self.dropped += len(self._queue)
            self._queue.clear()
            self._size = 0

    # The backlog.

    def observe(self, event: Mapping[str, Any]) -> None:
        kind, id = event["event"], event["id"]
        passing = kind == "progress"
        if passing:
            # Who watches over HTTP may have it more often.
            due = self._told.get(id, 0.0) + self._progress - 0.5
            if not self._progress or event["elapsed"] < due:
                return
            self._told[id] = event["elapsed"]
        elif kind in ("completed", "failed"):
            self._told.pop(id, None)
        self._number += 1
        body = json.dumps(event, separators=(",", ":")).encode("ascii")
        item = Item(id, f"{self._run}-{self._number}", body, passing)
        if len(body) > self.longest:
            item.refusal = f"{len(body)} bytes; allowed are {self.longest}"
            self._lose(item, last=True)
            return
        if passing and len(self._queue) >= self._backlog * PASSING:
            self._lose(item, last=True)
            return
        item.missed, self._missed = self._missed, 0
        self._queue.append(item)
        self._size += len(body)
        self._trim()
        self.proceed()

    def _trim(self) -> None:
        """
        Drop the oldest events of a backlog that is too long.
        """
        while len(self._queue) > self._backlog or (
            self._size > self._backlog * AVERAGE and len(self._queue) > 1
        ):
            item = self._queue.popleft()
            self._size -= len(item.body)
            self._lose(item)
            now = self.reactor.seconds()
            if self._full is None or now - self._full >= REMIND:
                self._full = now
                self._log.error(
                    "too many events wait for {where}: the oldest are dropped, so "
                    "far {dropped}",
                    where=self.where,
                    dropped=self.dropped,
                )

    def _lose(self, item: Item, last: bool = False) -> None:
        """
        Count an event that will not arrive, here and at the one that follows it.

        @param last: Whether it comes after all that waits.
        """
        self.dropped += 1
        missed = item.missed + 1
        now = self.reactor.seconds()
        if item.refusal and (self._refused is None or now - self._refused >= REMIND):
            self._refused = now
            self._log.error(
                "an event of {id} cannot be published to {where}; so far {dropped} "
                "were dropped: {why}",
                id=item.id,
                where=self.where,
                dropped=self.dropped,
                why=item.refusal,
            )
        if self._queue and not last:
            self._queue[0].missed += missed
        else:
            self._missed += missed

    # Sending.

    def proceed(self, now: bool = False) -> None:
        """
        Send what waits, if nothing is being sent already.

        @param now: Whether a pause ends.
        """
        if self._next is not None and now:
            self._next.cancel()
            self._next = None
        if self._next is None and self._sending is None and not self._closed:
            # Not at once: more may follow.
            self._next = self.reactor.callLater(0, self._send)

    def _send(self) -> None:
        self._next = None
        if not self.ready or (self._proven and not self._queue):
            self._rest()
            return
        batch = self._batch = self._take()
        self._sending = sending = Deferred.fromCoroutine(self.send(batch))
        sending.addBoth(self._sent, batch)

    def _take(self) -> Sequence[Item]:
        batch: list[Item] = []
        ids: set[str] = set()
        size = 0
        while self._queue and len(batch) < self.most:
            item = self._queue[0]
            size += len(item.body)
            if batch and (size > self.mostBytes or (self.apart and item.id in ids)):
                break
            batch.append(self._queue.popleft())
            ids.add(item.id)
            self._size -= len(item.body)
        return batch

    def _sent(self, result: None | Failure, batch: Sequence[Item]) -> None:
        self._batch, self._sending = (), None
        for item in reversed(batch):
            if not item.done and not item.refusal:
                self._queue.appendleft(item)
                self._size += len(item.body)
        for item in batch:
            if item.done:
                self.published += 1
            elif item.refusal:
                self._lose(item)
        self._trim()
        if isinstance(result, Failure):
            self._failed(result)
        else:
            self._succeeded()
        self._rest()

    def _rest(self) -> None:
        """
        Tell a stop that there is nothing more to wait for.
        """
        over = not self._queue or self._keeping
        if self._idle is not None and over and self._sending is None:
            idle, self._idle = self._idle, None
            idle.callback(None)

    def _succeeded(self) -> None:
        self._failures = 0
        self._proven = True
        self.reached()
        if self._queue:
            self.proceed()

    def reached(self) -> None:
        """
        Take note that events arrive, and say so if they did not.
        """
        if not self.connected:
            self._log.info(
                "publishing events to {where}; {waiting} waited, {dropped} were "
                "dropped so far",
                where=self.where,
                waiting=self.waiting,
                dropped=self.dropped,
            )
        self.connected = True
        self._said, self._full = ("", 0.0), None

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, CancelledError):
            return
        if not isinstance(error, PublishError):
            self._log.failure("events could not be published", failure)
            error = PublishError(type(error).__name__, refused=True)
        self._failures += 1
        if self._failures > 1 or error.refused or not self.patient:
            self.away(str(error), error.refused)
        last = LAST_REFUSED if error.refused else LAST
        delay: float = min(last, FIRST * 2 ** min(self._failures - 1, 8))
        delay = delay * (1 + self._jitter()) / 2
        delay = max(delay, min(error.delay or 0.0, LAST_ASKED))
        if self.ready and self._next is None and not self._closed:
            self._next = self.reactor.callLater(delay, self._send)

    def away(self, why: str, refused: bool) -> None:
        """
        Take note that events do not arrive; say so once, and again now and then.

        @param refused: Whether somebody must change something.
        """
        self.connected = False
        now = self.reactor.seconds()
        said, when = self._said
        if why == said and now - when < REMIND:
            return
        self._said = (why, now)
        say = self._log.error if refused else self._log.warn
        say(
            "cannot publish events to {where}, trying on: {why}",
            where=self.where,
            why=why,
        )
