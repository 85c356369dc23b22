# See LICENSE for details.
"""
What an upload by HTTP needs besides an agent: a body that is a file in a form,
and a connection that is watched.

treq has a body of that kind, but its end is a C{CRITICAL} in the log when the
server resets the connection, and an error in the reactor when it is cancelled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO
from uuid import uuid4

from OpenSSL import SSL
from zope.interface import implementer

from twisted.internet.address import HostnameAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import TimeoutError
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.client import URI
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer

from pcapdaemon.interfaces import StoreError

#: Bytes that are sent at once: just more than what a transport takes before it
#: asks for a pause.
_CHUNK = 128 << 10

#: The longest answer of a proxy.
_LONGEST = 16 << 10


@implementer(IBodyProducer)
class Form:
    """
    The body of a C{multipart/form-data} request: texts, and a file at the end.

    @ivar length: Bytes of it all.
    @ivar complete: Whether all of it has been written.
    """

    def __init__(
        self,
        fields: dict[str, str],
        name: str,
        filename: str,
        contentType: str,
        file: BinaryIO,
        size: int,
    ) -> None:
        """
        @param fields: The texts by the names of their parts.
        @param name: The name of the file's part; it is plain ASCII, as are
            C{filename} and C{contentType}.
        @param file: Stays open.
        @param size: The bytes that are in it.
        """
        self._boundary = uuid4().hex
        self._file = file
        lines = []
        for key, value in fields.items():
            lines += [
                f"--{self._boundary}",
                f'Content-Disposition: form-data; name="{key}"',
                "",
                value,
            ]
        lines += [
            f"--{self._boundary}",
            f'Content-Disposition: form-data; name="{name}"; filename="{filename}"',
            f"Content-Type: {contentType}",
            "",
            "",
        ]
        self._head = "\r\n".join(lines).encode()
        self._tail = f"\r\n--{self._boundary}--\r\n".encode()
        self.length = len(self._head) + size + len(self._tail)
        self.complete = False
        self._paused = False
        self._consumer: IConsumer | None = None
        self._pieces = self._iterate()

    @property
    def contentType(self) -> str:
        """The type of the body, for a header."""
        return f"multipart/form-data; boundary={self._boundary}"

    def _iterate(self) -> Iterator[bytes]:
        yield self._head
        while piece := self._file.read(_CHUNK):
            yield piece
        yield self._tail

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self._consumer = consumer
        self._done: Deferred[None] = Deferred(lambda _: self.stopProducing())
        self.resumeProducing()
        return self._done

    def resumeProducing(self) -> None:
        self._paused = False
        # A transport asks for a pause as soon as it has something to send.
        while self._consumer is not None and not self._paused:
            try:
                piece = next(self._pieces, None)
            except OSError:
                self.stopProducing()
                self._done.errback(Failure())
                return
            if piece is None:
                self.stopProducing()
                self.complete = True
                self._done.callback(None)
            else:
                self._consumer.write(piece)

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._consumer = None


class _Connection(ProtocolWrapper):
    """
    A connection, below HTTP and above TLS, of which a L{Watch} sees everything.
    """

    def __init__(self, factory: Any, wrapped: IProtocol, watch: Watch) -> None:
        super().__init__(factory, wrapped)
        self._watch = watch

    def makeConnection(self, transport: Any) -> None:
        self._watch.connected(transport)
        super().makeConnection(transport)

    def pauseProducing(self) -> None:
        """
        A client that still sends would pause a server that answers already, and
        never know what it said.
        """

    def resumeProducing(self) -> None:
        """
        It never pauses.
        """

    def write(self, data: bytes) -> None:
        self._watch.moved()
        super().write(data)

    def dataReceived(self, data: bytes) -> None:
        if self._watch.received(data):
            super().dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._watch.lost()
        super().connectionLost(reason)


@implementer(IStreamClientEndpoint, IAgentEndpointFactory)
class Watch:
    """
    The endpoint for one request of an agent; gives its connection up when
    nothing moves, or too much comes.

    @ivar why: Why it has been given up, if it has.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        longest: int,
        idle: float,
    ) -> None:
        """
        @param longest: The most bytes of an answer, headers included.
        @param idle: Seconds in which something has to move.
        """
        self.why: StoreError | None = None
        self._clock = clock
        self._endpoint = endpoint
        self._longest = longest
        self._idle = idle
        self._size = 0
        self._head = b""
        self._transport: Any = None
        self._timer: IDelayedCall | None = None

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return self

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        factory: Any = WrappingFactory(protocolFactory)
        # Each would log its start and its end.
        factory.noisy = protocolFactory.noisy = False  # type: ignore[attr-defined]
        factory.protocol = lambda factory, protocol: _Connection(
            factory, protocol, self
        )
        connecting: Deferred[Any] = self._endpoint.connect(factory)
        return connecting.addCallback(lambda connection: connection.wrappedProtocol)

    @property
    def status(self) -> int:
        """
        The status of the answer, as soon as it begins; else 0.
        """
        match = re.match(rb"HTTP/1\.\d ([2-5]\d\d)\b", self._head)
        return int(match[1]) if match else 0

    def connected(self, transport: Any) -> None:
        """Take note of the connection."""
        self._transport = transport
        self._timer = self._clock.callLater(self._idle, self._stalled)

    def moved(self) -> None:
        """Take note that the other side takes or sends something."""
        if self._timer is not None:
            self._timer.reset(self._idle)

    def received(self, data: bytes) -> bool:
        """
        Take note of what comes.

        @return: Whether it may be looked at.
        """
        self.moved()
        self._size += len(data)
        if self._size > self._longest:
            self._giveUp(StoreError("the reply is too long", transient=False))
            return False
        if len(self._head) < 16:
            self._head += data[:16]
        return True

    def lost(self) -> None:
        """Take note that the connection is over."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stalled(self) -> None:
        self._timer = None
        self._giveUp(StoreError(f"nothing moved for {self._idle:g} s", transient=True))

    def _giveUp(self, why: StoreError) -> None:
        self.why = self.why or why
        self.abort()

    def abort(self) -> None:
        """
        End the connection at once. Idempotent.
        """
        if self._transport is not None:
            self._transport.abortConnection()


class _Asking(Protocol):
    """
    Asks a proxy for a tunnel.

    @ivar opened: Fires with what came through the tunnel already.
    """

    def __init__(self, target: str) -> None:
        self.opened: Deferred[bytes] = Deferred()
        self._target = target
        self._reply = b""

    def connectionMade(self) -> None:
        request = f"CONNECT {self._target} HTTP/1.1\r\nHost: {self._target}\r\n\r\n"
        assert self.transport is not None
        self.transport.write(request.encode())

    def dataReceived(self, data: bytes) -> None:
        self._reply += data
        head, end, rest = self._reply.partition(b"\r\n\r\n")
        if self.opened.called or (not end and len(head) <= _LONGEST):
            return
        match = re.match(rb"HTTP/1\.\d (\d\d\d)\b", head) if end else None
        status = int(match[1]) if match else 0
        if 200 <= status <= 299:
            self.opened.callback(rest)
        elif status:
            text = f"the proxy answered {status}"
            self.opened.errback(StoreError(text, isTransient(status)))
        else:
            text = "the proxy does not speak HTTP"
            self.opened.errback(StoreError(text, transient=False))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.opened.called:
            self.opened.errback(reason)


@implementer(IStreamClientEndpoint)
class Tunnel:
    """
    An endpoint behind an HTTP proxy that knows C{CONNECT}.
    """

    def __init__(
        self,
        clock: IReactorTime,
        proxy: IStreamClientEndpoint,
        host: str,
        port: int,
        timeout: float,
    ) -> None:
        """
        @param host: As it stands in a URL.
        @param timeout: Seconds that it may take until there is a tunnel.
        """
        self._clock = clock
        self._proxy = proxy
        self._host = host
        self._port = port
        self._timeout = timeout

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        connecting = Deferred.fromCoroutine(self._connect(protocolFactory))
        return connecting.addTimeout(
            self._timeout, self._clock, lambda _result, _s: Failure(TimeoutError())
        )

    async def _connect(self, protocolFactory: IProtocolFactory) -> IProtocol:
        asking = _Asking(f"{self._host}:{self._port}")
        factory = Factory.forProtocol(lambda: asking)
        factory.noisy = False
        await self._proxy.connect(factory)
        transport: Any = asking.transport
        try:
            rest = await asking.opened
        except BaseException:
            transport.abortConnection()
            raise
        address = HostnameAddress(self._host.encode(), self._port)
        protocol = protocolFactory.buildProtocol(address)
        assert protocol is not None
        transport.protocol = protocol
        protocol.makeConnection(transport)
        if rest:
            protocol.dataReceived(rest)
        return protocol


@implementer(IOpenSSLClientConnectionCreator)
class Unverified:
    """
    TLS with whoever answers.
    """

    def __init__(self, name: str) -> None:
        """
        @param name: What to call the server; empty for nothing, as an address
            is none.
        """
        self._name = name.encode()
        self._context = CertificateOptions().getContext()

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> Any:
        connection = SSL.Connection(self._context, None)
        if self._name:
            connection.set_tlsext_host_name(self._name)
        return connection


def isTransient(status: int) -> bool:
    """
    Whether after this answer the same may succeed later.
    """
    return status in (408, 429) or status >= 500
