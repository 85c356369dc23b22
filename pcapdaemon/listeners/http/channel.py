# See LICENSE for details.
# mypy: allow-untyped-calls
"""
One HTTP connection, and how long it may take.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from twisted.internet.interfaces import ISystemHandle, ITCPTransport
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel

if TYPE_CHECKING:
    from pcapdaemon.listeners.http.site import ApiRequest, ApiSite

#: Seconds in which a client may read the end of a stream when the site closes.
_LAST = 0.1


class BodyTooLarge(Exception):
    """
    A body in chunks has grown over the limit.
    """


class ApiChannel(HTTPChannel):
    """
    One connection.

    @ivar cut: Whether the rest of a body is being thrown away.
    @ivar closing: Whether the connection is on its way down.
    @ivar stuck: Whether the client does not read a stream or download.
    @ivar ending: Whether the stream ends when it has read.
    """

    site: ApiSite
    transport: ITCPTransport
    cut = False
    closing = False
    stuck = False
    ending = False

    def connectionMade(self) -> None:
        """
        Join the site's connections.
        """
        super().connectionMade()
        if ISystemHandle.providedBy(self.transport):
            # What a client that is gone without a word does not acknowledge would
            # be sent for a quarter of an hour, and its stream take up a place.
            self.transport.getHandle().setsockopt(  # type: ignore[attr-defined]
                socket.IPPROTO_TCP,
                socket.TCP_USER_TIMEOUT,
                int((self.site.timeOut or 0) * 1000),
            )
        self.site.channels.add(self)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """
        Leave the site's connections.
        """
        super().connectionLost(reason)
        self.site.left(self)

    def dataReceived(self, data: bytes) -> None:
        """
        Go on without a new lease of time, which the base class would give: a
        whole request must come within the time-out, however it trickles.
        """
        LineReceiver.dataReceived(self, data)

    def headerReceived(self, line: bytes) -> bool:
        """
        Refuse a length with more digits than C{int} takes, too.
        """
        try:
            return bool(super().headerReceived(line))
        except ValueError:
            self._respondToBadRequestAndDisconnect()
            return False

    def checkPersistence(self, request: ApiRequest, version: bytes) -> bool:
        """
        Keep no connection when the site closes.
        """
        return not self.site.closing and bool(
            super().checkPersistence(request, version)
        )

    def allHeadersReceived(self) -> None:
        """
        Answer at once, without the body, where it is announced as too large.
        """
        size = self.length or 0
        tooLarge = size > self.site.maxBody()
        if tooLarge:
            self.length = 0
            self.requests[-1].requestHeaders.removeHeader(b"Expect")
        super().allHeadersReceived()
        if tooLarge:
            self._cutOff(size)

    def rawDataReceived(self, data: bytes) -> None:
        """
        Take a part of the body, or throw it away.
        """
        if self.cut:
            return
        try:
            super().rawDataReceived(data)
        except BodyTooLarge as e:
            self._cutOff(e.args[0])
            self.allContentReceived()

    def _cutOff(self, size: int) -> None:
        self.cut = True
        self.persistent = False
        request = self.requests[-1]
        request.cutOff = size
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])

    def loseConnection(self) -> None:
        """
        Close when all is written, but wait for no client for ever.
        """
        self.closing = True
        self.setTimeout(self.abortTimeout)
        if self.cut:
            # To close with unread data is to reset the connection, and then the
            # client might never see the answer. So it goes first.
            self.transport.loseWriteConnection()
        else:
            super().loseConnection()

    def timeoutConnection(self) -> None:
        """
        Close, and when that has been tried or cannot work, abort.
        """
        if self.closing or self.stuck:
            self.transport.abortConnection()
        else:
            self.loseConnection()

    def pauseProducing(self) -> None:
        """
        Give a client that does not read a stream some time, and no more.
        """
        super().pauseProducing()
        if self._isStreaming():
            self.stuck = True
            self.setTimeout(_LAST if self.ending else self.site.timeOut)

    def resumeProducing(self) -> None:
        """
        It has read.
        """
        if self.stuck:
            self.stuck = False
            if self._isStreaming():
                self.setTimeout(None)
        super().resumeProducing()
        if self.ending and not self.stuck:
            self.ending = False
            self._endStream()

    def _isStreaming(self) -> bool:
        return bool(self.requests) and self.requests[0].producer is not None

    def finishUp(self) -> None:
        """
        Close when the request under way, if any, is answered; a stream ends when
        its client has what there is.
        """
        self.persistent = False
        if not self.requests:
            self.loseConnection()
        elif self.requests[0].endless:
            self.ending = self.stuck
            if self.ending:
                self.setTimeout(_LAST)
            else:
                self._endStream()

    def _endStream(self) -> None:
        self.requests[0].end()
        if self in self.site.channels:
            # What has been written may yet be read, if somebody reads.
            self.setTimeout(_LAST)
