# See LICENSE for details.
# mypy: allow-untyped-calls
"""
The HTTP server's own manners, whatever it serves: bodies, connections, streams and
time are bounded, every answer has the same headers.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from io import BytesIO
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import CACHED
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from pcapdaemon.listeners.http.channel import ApiChannel, BodyTooLarge
from pcapdaemon.listeners.http.guard import Guard
from pcapdaemon.listeners.http.reply import RETRY_AFTER, Answering, problem


class ApiRequest(Request):
    """
    One request.

    @ivar cutOff: If the body was too large and is not there: the bytes that were
        announced, or had come when it was cut off.
    @ivar endless: Whether what is answered has no end of its own.
    """

    channel: Any  # an ApiChannel, or None when the client has hung up
    site: ApiSite
    content: BytesIO
    cutOff = 0
    endless = False
    _log = Logger()

    def gotLength(self, length: int | None) -> None:
        """
        Keep the body in memory, which its limit allows, and off the disk.
        """
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """
        Take a part of the body, within the limit.
        """
        size = self.content.tell() + len(data)
        if size > self.channel.site.maxBody():
            raise BodyTooLarge(size)
        self.content.write(data)

    def process(self) -> None:
        """
        Treat C{OPTIONS *}, too, as any other path that does not exist.
        """
        if self.path == b"*":
            self.path = b"/*"
        super().process()

    def render(self, resrc: IResource) -> None:
        """
        Answer, unless the guard objects.
        """
        self.setManners()
        refusal = self.site.guard.refusal(
            self.requestHeaders, getattr(resrc, "public", False)
        )
        if refusal is None:
            super().render(resrc)
            return
        if refusal.code is HTTPStatus.UNAUTHORIZED:
            note = getattr(resrc, "unauthorized", None)
            if note is not None:
                note(self)
        self.reply(refusal)

    def setManners(self) -> None:
        """
        Set the headers of every answer.
        """
        self.setHeader(b"Server", b"pcapdaemon")
        self.setHeader(b"Cache-Control", b"no-store")
        self.setHeader(b"X-Content-Type-Options", b"nosniff")

    def reply(self, reply: Answering) -> None:
        """
        Answer and finish, now or later, if the client still listens.
        """
        if self.channel is None:
            return
        self.setResponseCode(reply.code, reply.code.phrase.encode("ascii"))
        for name, value in reply.headers.items():
            self.setHeader(name, value)
        self.setHeader(b"Content-Type", reply.kind)
        reply.send(self)

    def text(self, name: str) -> str | None:
        """
        The last value of a header, whatever bytes it has.
        """
        values = self.requestHeaders.getRawHeaders(name.encode("ascii"), [])
        return values[-1].decode("latin-1") if values else None

    def isKnown(self, etag: str) -> bool:
        """
        Name what is sent.

        @param etag: The name, without quotes.
        @return: Whether the client has it already: then C{finish} is all.
        """
        return self.setETag(b'"%b"' % etag.encode("ascii")) is CACHED

    def sendWhole(self, data: bytes) -> None:
        """
        Send the whole body, and finish.
        """
        self.setHeader(b"Content-Length", b"%d" % (len(data),))
        self.write(data)
        self.finish()

    def reserve(self) -> bool:
        """
        Take one of the places for answers that take as long as the client likes,
        until this one is over. Where none is free the client is told.

        @return: Whether there was one.
        """
        streams = self.site.streams
        if len(streams) >= self.site.maxStreams:
            self.responseHeaders, self.etag = Headers(), None
            self.setManners()
            self.reply(
                problem(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "busy",
                    f"{len(streams)} streams and downloads are open; allowed are"
                    f" {self.site.maxStreams}",
                    {"Retry-After": str(RETRY_AFTER)},
                )
            )
            return False
        streams.add(self)
        self.notifyFinish().addBoth(lambda ignored: streams.discard(self))
        return True

    def stream(self, producer: IPushProducer) -> None:
        """
        Let something write from now on, until the client goes or the site closes:
        C{producer.stopProducing} is called then, perhaps more than once. It is
        resumed to begin with, and paused while the client does not read, which
        may last for the site's time-out.
        """
        self.endless = True
        self.notifyFinish().addBoth(lambda ignored: producer.stopProducing())
        self.write(b"")  # the headers, at once
        self.registerProducer(producer, True)
        producer.resumeProducing()

    def end(self) -> None:
        """
        Finish a stream.
        """
        self.unregisterProducer()
        self.finish()

    def processingFailed(self, reason: Failure) -> None:
        """
        Tell the log, and the client, if it can be told, only that it happened.
        """
        self._log.failure("An HTTP request cannot be answered", reason)
        if self.startedWriting and self.channel is not None:
            # Half an answer: nobody shall take it for a whole one.
            self.channel.transport.abortConnection()
            return
        self.reply(
            problem(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "internal-error",
                "the daemon's log says more",
            )
        )


class ApiSite(Site):
    """
    The server.

    @ivar guard: Who may pass.
    @ivar maxBody: Says how many bytes a body may have.
    @ivar channels: The open connections.
    @ivar maxChannels: How many there may be; more are closed unheard.
    @ivar streams: The requests whose answers take as long as the client likes.
    @ivar maxStreams: How many there may be, so that room is left for the others.
    @ivar closing: Whether it is being closed.
    """

    noisy = False
    protocol = ApiChannel  # type: ignore[assignment]
    closing = False
    _log = Logger()
    _full = False

    def __init__(
        self,
        resource: IResource,
        guard: Guard,
        maxBody: Callable[[], int],
        maxChannels: int,
        maxStreams: int,
        timeout: float,
        clock: IReactorTime,
    ) -> None:
        super().__init__(
            resource,
            ApiRequest,
            timeout=timeout,
            reactor=clock,
            parsePOSTFormSubmission=False,
        )
        self.guard = guard
        self.maxBody = maxBody
        self.maxChannels = maxChannels
        self.channels: set[ApiChannel] = set()
        self.maxStreams = maxStreams
        self.streams: set[ApiRequest] = set()
        self._closed: Deferred[None] = Deferred()

    def startFactory(self) -> None:
        """
        Start no access log, nor the clock that it would tick by.
        """

    def log(self, request: Any) -> None:
        """
        Note nothing: twistd writes debug lines, too, and a health check every
        few seconds would bury what matters. Events say what was asked.
        """

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """
        Welcome a connection, if there is room.
        """
        if len(self.channels) < self.maxChannels:
            self._full = False
            return super().buildProtocol(addr)
        if not self._full:
            self._full = True
            self._log.warn(
                "{count} HTTP connections are open, further ones are closed",
                count=len(self.channels),
            )
        return None

    def left(self, channel: ApiChannel) -> None:
        """
        Forget a connection that is gone.
        """
        self.channels.discard(channel)
        if self.closing and not self.channels:
            self._closed.callback(None)

    def close(self, grace: float) -> Deferred[None]:
        """
        Close all connections, once the port no longer listens.

        @param grace: Seconds for requests under way.
        @return: A Deferred that fires when all are closed.
        """
        if not self.channels:
            self._closed.callback(None)
            return self._closed
        self.closing = True
        abort = self.reactor.callLater(grace, self._abort)
        for channel in list(self.channels):
            channel.finishUp()

        def closed(ignored: None) -> None:
            if abort.active():
                abort.cancel()

        return self._closed.addCallback(closed)

    def _abort(self) -> None:
        for channel in list(self.channels):
            channel.transport.abortConnection()
