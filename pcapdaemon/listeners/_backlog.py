# See LICENSE for details.
"""
What has been read from connections and not yet been parsed.

Redis cuts off a subscriber that lets more than 32 MiB wait in the server
(C{client-output-buffer-limit}). So in a burst reading goes first: as much again
may wait here, and a reactor turn spends about a millisecond on it, or less while
the socket is full.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall

#: Seconds of each reactor turn that may be spent on what was read.
SLICE = 0.001
#: Bytes that are parsed at once, so that a slice can end in time.
PIECE = 4 * 1024
#: Bytes of one read that tell that the socket has more.
FULL = 32 * 1024
#: Bytes that may wait; above it, reading stops until half of them are gone.
LIMIT = 32 * 1024 * 1024


class Source(Protocol):
    """
    A connection, as the backlog needs it.

    @ivar partial: How many bytes of an unfinished message it holds.
    """

    partial: int
    transport: Any

    def parse(self, piece: bytes) -> None:
        """
        Take one piece of the stream. Must not raise.
        """


class Backlog:
    """
    Pieces of streams in the order in which they came.

    @ivar waiting: How many bytes wait.
    """

    def __init__(self, reactor: Any) -> None:
        self.waiting = 0
        self._reactor = reactor
        self._pieces: deque[tuple[Source, bytes]] = deque()
        self._work: IDelayedCall | None = None
        self._urgent = False
        self._paused: Source | None = None

    def add(self, source: Source, data: bytes) -> None:
        """
        Take what was read from a connection, and parse it soon.
        """
        for start in range(0, len(data), PIECE):
            self._pieces.append((source, data[start : start + PIECE]))
        self.waiting += len(data)
        # Within a large message parsing is cheap, and keeps it from being here
        # and in the parser.
        self._urgent = len(data) >= FULL and source.partial < FULL
        if self._work is None:
            self._parse()
        if self._paused is None and self.waiting + source.partial > LIMIT:
            self._paused = source
            source.transport.pauseProducing()

    def _parse(self) -> None:
        """
        Parse pieces until the time is up or none is left.
        """
        self._work = None
        end = self._reactor.seconds() + (0 if self._urgent else SLICE)
        self._urgent = False
        while self._pieces:
            source, piece = self._pieces.popleft()
            self.waiting -= len(piece)
            source.parse(piece)
            if self._reactor.seconds() >= end:
                break
        if self._pieces:
            self._work = self._reactor.callLater(0, self._parse)
        # An unfinished message may be as long as the limit: it does not count.
        if self._paused is not None and self.waiting <= LIMIT // 2:
            paused, self._paused = self._paused, None
            paused.transport.resumeProducing()

    def forget(self, source: Source) -> None:
        """
        Take note that a connection has ended. What was read of it stays.
        """
        if self._paused is source:
            self._paused = None

    def clear(self) -> None:
        """
        Drop everything.
        """
        self._pieces.clear()
        self.waiting = 0
        self._paused = None
        if self._work is not None:
            self._work.cancel()
            self._work = None
