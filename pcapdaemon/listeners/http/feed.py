# See LICENSE for details.
"""
What happens, for those who watch over HTTP: server-sent events
(U{https://html.spec.whatwg.org/multipage/server-sent-events.html}).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from secrets import token_hex
from typing import Any, Protocol

import attrs
from zope.interface import implementer

from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from pcapdaemon.events import Events
from pcapdaemon.interfaces import IEventObserver

#: Seconds between two signs of life.
HEARTBEAT = 15.0
#: Milliseconds after which a browser that lost its connection comes again.
_RETRY = 2000
#: What is remembered for those who were away or read slowly: events, and bytes.
_MOST, _BYTES = 10_000, 4 << 20


class Sink(Protocol):
    """
    All that a watcher needs of its connection.
    """

    def write(self, data: bytes) -> None:
        """Send some bytes."""


@attrs.frozen
class Wish:
    """
    What a watcher wants.

    @ivar requestId: Only events of this request; empty for all.
    @ivar progress: Whether C{progress}, too.
    @ivar last: The last event that it has seen, if it says so: L{None} to see what
        comes, and nothing that was.
    """

    requestId: str = ""
    progress: bool = True
    last: str | None = None


def frame(event: str, data: bytes, id: str = "") -> bytes:
    """
    One event as it goes over the wire.

    @param data: Bytes without a line break.
    """
    named = f"id: {id}\n" if id else ""
    return f"{named}event: {event}\ndata: ".encode() + data + b"\n\n"


@implementer(IPushProducer)
class Watcher:
    """
    One who watches. It holds nothing but its place in what the feed remembers:
    while it does not read, events wait there for it, and those that leave it before
    they are read are counted in a C{gap}. Of each capture's C{progress} the last one
    waits.
    """

    def __init__(self, feed: Feed, wish: Wish, sink: Sink) -> None:
        self._feed = feed
        self._wish = wish
        self._sink = sink
        self._leave: Callable[[], None] | None = None
        self._paused = True
        self._begun = False
        self._seen = feed.last
        self._unknown = False
        #: What waits: a capture to after which event, and the C{progress}. In the
        #: order of these events.
        self._late: dict[str, tuple[int, bytes]] = {}
        if wish.last is not None:
            number = feed.number(wish.last)
            self._unknown = number is None
            self._seen = feed.first - 1 if number is None else number

    def resumeProducing(self) -> None:
        """
        Write what has waited.
        """
        self._paused = False
        if not self._begun:
            self._begin()
        self.tell()

    def _begin(self) -> None:
        """
        Greet. Without the number, who is cut off before the first event would not
        know where to go on.
        """
        self._begun = True
        if self._wish.progress:
            self._leave = self._feed.watch()
        self._feed.join(self)
        id = self._feed.id(self._seen)
        self._sink.write(f"retry: {_RETRY}\nid: {id}\n\n".encode())
        if self._unknown:
            self._gap(reason="unknown")

    def pauseProducing(self) -> None:
        """
        Nobody reads.
        """
        self._paused = True

    def stopProducing(self) -> None:
        """
        Nobody will read any more. Idempotent.
        """
        self._paused = True
        self._late = {}
        self._feed.leave(self)
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    def tell(self) -> None:
        """
        Write what the feed has beyond the last event that was seen.
        """
        while not self._paused:
            if self._late and self._tellLate():
                continue
            if self._seen >= self._feed.last:
                return
            missed = self._feed.first - 1 - self._seen
            if missed > 0:
                self._seen += missed
                self._gap(missed=missed, reason="gone")
                continue
            self._seen += 1
            requestId, data = self._feed.kept(self._seen)
            if self._wants(requestId):
                self._sink.write(data)

    def _tellLate(self) -> bool:
        """
        Write the first C{progress} that has waited, if it comes before the next
        event.

        @return: Whether it did.
        """
        id, (after, data) = next(iter(self._late.items()))
        if after > self._seen:
            return False
        del self._late[id]
        self._sink.write(data)
        return True

    def passing(self, id: str, requestId: str, data: bytes) -> None:
        """
        Write what is not remembered: now, or when somebody reads, unless there is
        a later one of the same capture by then.
        """
        if self._wish.progress and self._wants(requestId):
            self._late.pop(id, None)
            self._late[id] = (self._feed.last, data)
            self.tell()

    def beat(self) -> None:
        """
        Show that the connection lives.
        """
        if not self._paused:
            self._sink.write(b":\n\n")

    def _wants(self, requestId: str) -> bool:
        return self._wish.requestId in ("", requestId)

    def _gap(self, **about: Any) -> None:
        data = json.dumps({"event": "gap", **about}).encode()
        self._sink.write(frame("gap", data, self._feed.id(self._seen)))


@implementer(IEventObserver)
class Feed:
    """
    Numbers events, and remembers the last ones as the bytes that all watchers
    get: each is made JSON once.

    @ivar first: The number of the oldest event that is remembered.
    @ivar last: The number of the newest one; one less than C{first} where there
        is none.
    @ivar watch: Called for each that wants progress; returns what to call when it
        no longer does.
    """

    _log = Logger()

    def __init__(
        self,
        events: Events,
        watch: Callable[[], Callable[[], None]],
        clock: IReactorTime,
        most: int = _MOST,
        size: int = _BYTES,
    ) -> None:
        """
        @param most: How many events are remembered.
        @param size: How many bytes of them.
        """
        self._events = events
        self.watch = watch
        self._running = False
        #: Those who watch now, in the order in which they came.
        self._watchers: dict[Watcher, None] = {}
        self._most = most
        self._size = size
        self._run = token_hex(4)
        self._kept: dict[int, tuple[str, bytes]] = {}
        self._used = 0
        self.first = 1
        self.last = 0
        self._pulse = LoopingCall(self._beat)
        self._pulse.clock = clock

    def start(self) -> None:
        """
        Listen from now on. Idempotent.
        """
        if not self._running:
            self._running = True
            self._events.add(self)

    def stop(self) -> None:
        """
        Listen no more. Idempotent.
        """
        if self._running:
            self._running = False
            self._events.remove(self)

    def join(self, watcher: Watcher) -> None:
        """
        Tell somebody what happens.
        """
        self._watchers[watcher] = None
        if not self._pulse.running:
            self._pulse.start(HEARTBEAT, now=False).addErrback(
                lambda failure: self._log.failure("no heartbeat", failure=failure)
            )

    def leave(self, watcher: Watcher) -> None:
        """
        Tell it no more. Idempotent.
        """
        self._watchers.pop(watcher, None)
        if self._pulse.running and not self._watchers:
            self._pulse.stop()

    def id(self, number: int) -> str:
        """
        The name of an event, which no other run of the daemon gives.
        """
        return f"{self._run}-{number}"

    def number(self, id: str) -> int | None:
        """
        The number of an event that L{id} named; L{None} where it did not.
        """
        run, _, digits = id.partition("-")
        if run != self._run or not digits.isascii() or not digits.isdecimal():
            return None
        number = int(digits) if len(digits) < 20 else -1
        return number if 0 <= number <= self.last else None

    def kept(self, number: int) -> tuple[str, bytes]:
        """
        One of the remembered events.

        @return: Its C{request_id} and what is to be sent.
        """
        return self._kept[number]

    def observe(self, event: Mapping[str, Any]) -> None:
        """
        Remember it, but for C{progress}, and tell.
        """
        kind, requestId = event["event"], event.get("request_id", "")
        if kind == "progress":
            if self._watchers:
                data = frame(kind, _json(event))
                for watcher in list(self._watchers):
                    watcher.passing(event["id"], requestId, data)
            return
        self.last += 1
        data = frame(kind, _json(event), self.id(self.last))
        self._kept[self.last] = (requestId, data)
        self._used += len(data)
        while len(self._kept) > self._most or self._used > self._size:
            self._used -= len(self._kept.pop(self.first)[1])
            self.first += 1
        for watcher in list(self._watchers):
            watcher.tell()

    def _beat(self) -> None:
        for watcher in list(self._watchers):
            watcher.beat()


def _json(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode("ascii")
