# See LICENSE for details.
"""
Tests for L{pcapdaemon.sinks.s3} against servers that misbehave.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTCP
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.trial.unittest import TestCase

from pcapdaemon.interfaces import StoreError
from pcapdaemon.sinks import s3
from pcapdaemon.sinks.s3 import S3Sink
from pcapdaemon.test.s3case import ID, KEY, LiveSink
from pcapdaemon.test.servers import freePort, until

#: More than what the kernel takes for a connection.
BODY = b"pcap" * 4_000_000


class Peer(Protocol):
    """
    One connection to the server.

    @ivar received: How many bytes have come.
    """

    factory: Trouble
    transport: Any

    def connectionMade(self) -> None:
        self.received = 0
        self.factory.peers.append(self)

    def dataReceived(self, data: bytes) -> None:
        if self.received == 0 and b"100-continue" in data:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.received += len(data)
        self.factory.react(self)


class Trouble(ServerFactory):
    """
    A server that does what a test says.

    @ivar react: Called with a L{Peer} whenever it has sent something.
    @ivar peers: All connections so far.
    """

    protocol: Any = Peer

    def __init__(self, react: Callable[[Any], object]) -> None:
        self.react = react
        self.peers: list[Peer] = []


def replies(answer: bytes) -> Callable[[Any], None]:
    """
    Answer when all of L{BODY} has come, and close.
    """

    def react(peer: Any) -> None:
        if peer.received > len(BODY):
            peer.transport.write(answer)
            peer.transport.loseConnection()

    return react


class TroubleTests(LiveSink, TestCase):
    """
    What a sink makes of it.
    """

    #: Seconds that a sink waits for the server.
    patience = 0.5

    def serve(self, react: Callable[[Any], object]) -> Trouble:
        """
        Start a server.
        """
        trouble = Trouble(react)
        port: Any = IReactorTCP(reactor).listenTCP(0, trouble, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.addCleanup(lambda: [p.transport.abortConnection() for p in trouble.peers])
        self.port = port.getHost().port
        return trouble

    def sink(self, **settings: Any) -> S3Sink:
        """
        A sink that runs and waits as long as C{patience}.
        """
        self.patch(s3, "_CONNECT", self.patience)
        self.patch(s3, "_READ", self.patience)
        endpoint = f"http://127.0.0.1:{self.port}"
        plain = {"bucket": "captures", "accessid": ID, "accesskey": KEY}
        return self.start(**{**plain, "endpoint": endpoint, **settings})

    async def outcome(
        self, react: Callable[[Any], object], **settings: Any
    ) -> StoreError:
        """
        What becomes of an upload; there must have been one attempt.
        """
        trouble = self.serve(react)
        error = await self.failed(self.sink(**settings), self.recording(BODY))
        self.assertEqual(len(trouble.peers), 1)
        self.assertNotIn(KEY, str(error))
        self.assertTrue(str(error).startswith("captures/web1-"), error)
        return error

    async def test_refused(self) -> None:
        """
        A refused connection is transient.
        """
        self.port = freePort()
        error = await self.failed(self.sink(), self.recording(BODY))
        self.assertTrue(error.transient, error)

    async def test_reset(self) -> None:
        """
        A connection that breaks off is transient, at any moment.
        """
        for moment in (1, 1_000_000, len(BODY)):

            def react(peer: Any, moment: int = moment) -> None:
                if peer.received >= moment:
                    peer.transport.abortConnection()

            error = await self.outcome(react)
            self.assertTrue(error.transient, error)

    async def test_closed(self) -> None:
        """
        So is one that is closed in the middle.
        """
        error = await self.outcome(lambda peer: peer.transport.loseConnection())
        self.assertTrue(error.transient, error)

    async def test_stalled(self) -> None:
        """
        A server that takes no more, or does not answer, or not in full, is
        given up.
        """
        for react in (
            lambda peer: peer.transport.pauseProducing(),
            lambda peer: None,
            replies(b"HTTP/1.1 503 No\r\n"),
        ):
            error = await self.outcome(react)
            self.assertTrue(error.transient, error)

        def hang(peer: Any) -> None:
            if peer.received > len(BODY):
                peer.transport.write(
                    b"HTTP/1.1 500 No\r\nContent-Length: 1000\r\n\r\n<Error>"
                )

        error = await self.outcome(hang)
        self.assertTrue(error.transient, error)

    async def test_answers(self) -> None:
        """
        Answers that are no S3 have the class of their status.
        """
        for status, transient in (
            (b"401 Unauthorized", False),
            (b"407 Proxy Authentication Required", False),
            (b"413 Too Large", False),
            (b"302 Found\r\nLocation: http://127.0.0.1:1/", False),
            (b"429 Too Many\r\nRetry-After: 17", True),
            (b"500 Oops", True),
            (b"503 Busy", True),
        ):
            error = await self.outcome(
                replies(b"HTTP/1.1 " + status + b"\r\n\r\n<html><p>no")
            )
            self.assertEqual(error.transient, transient, error)
            self.assertEqual(error.delay, 17 if b"429" in status else None)

    async def test_noHTTP(self) -> None:
        """
        A server that speaks another language may do better later.
        """
        error = await self.outcome(lambda peer: peer.transport.write(b"220 mail\r\n"))
        self.assertTrue(error.transient, error)

    async def test_noTLS(self) -> None:
        """
        A connection that breaks off before TLS is up is transient.
        """
        endpoint = {"endpoint": ""}
        for react in (
            lambda peer: peer.transport.loseConnection(),
            lambda peer: peer.transport.abortConnection(),
            lambda peer: None,
        ):
            self.serve(react)
            endpoint["endpoint"] = f"https://127.0.0.1:{self.port}"
            error = await self.failed(self.sink(**endpoint), self.recording(b"x"))
            self.assertTrue(error.transient, error)

    async def test_bomb(self) -> None:
        """
        A small answer is not made a large one.
        """
        answer = gzip.compress(bytes(300_000_000), 1)
        headers = (
            "HTTP/1.1 500 Oops\r\nContent-Type: application/xml\r\n"
            f"Content-Encoding: gzip\r\nContent-Length: {len(answer)}\r\n\r\n"
        )
        before = self.peak(reset=True)
        error = await self.outcome(replies(headers.encode() + answer))
        self.assertTrue(error.transient, error)
        self.assertLess(self.peak() - before, 32 << 20)

    async def test_cancelled(self) -> None:
        """
        An upload that is cancelled stops sending, and gives its thread back.
        """
        paused: list[Any] = []

        def react(peer: Any) -> None:
            if not paused:
                paused.append(peer.transport)
                peer.transport.pauseProducing()

        trouble = self.serve(react)
        self.patience = 3600
        sink = self.sink()
        d = sink.store(self.recording(BODY))
        await until(reactor, lambda: paused, "the upload")
        d.cancel()
        await self.assertFailure(d, CancelledError)
        paused[0].resumeProducing()
        await sink.stopService()
        self.assertLess(trouble.peers[0].received, len(BODY))
