# See LICENSE for details.
# mypy: allow-untyped-calls
"""
Tests for L{pcapdaemon.listeners.http}: what a client may cost.
"""

from __future__ import annotations

import json
import resource
import socket
from http.client import HTTPConnection
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.testing import (
    MemoryReactorClock,
    StringTransportWithDisconnection,
)
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SkipTest, SynchronousTestCase
from twisted.web.client import Agent

from pcapdaemon.interfaces import Answer, StartError
from pcapdaemon.listeners.http import HttpListener
from pcapdaemon.test.servers import until
from pcapdaemon.test.test_http import (
    JSON,
    TAKEN,
    FakeControl,
    FakeReceiver,
    ListenerTestCase,
    makeServed,
)

GET = b"GET /captures HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = (
    b"POST /captures HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
)
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


class TokenTests(ListenerTestCase):
    """
    A listener with a token.
    """

    token = "sesame-42"

    async def test_unauthorized(self) -> None:
        """
        Without the token nothing is to be had but the health, and nothing is
        handed on.
        """
        for method, path in (
            ("GET", "/captures"),
            ("GET", "/captures/a1"),
            ("DELETE", "/captures/a1"),
            ("POST", "/captures"),
            ("PUT", "/captures"),
            ("GET", "/nothing"),
        ):
            response = await self.request(method, path, JSON, b"x" * 2000)
            self.assertEqual(response.code, 401, path)
            self.assertEqual(response.header("WWW-Authenticate"), "Bearer")
            self.assertEqual(response.json()["reason"], "unauthorized")
        self.assertEqual(self.receiver.messages, [])
        self.assertEqual(self.receiver.sizes, [])
        self.assertEqual(self.control.states["a1"], "armed")
        self.assertEqual((await self.request("GET", "/healthz")).code, 200)

    async def test_noted(self) -> None:
        """
        The receiver is told of each request for captures that lacks the token,
        once, whatever its body, and of nothing else.
        """
        wrong = {**JSON, "Authorization": ["Bearer sesame-43"]}
        for headers, body in ((JSON, b"{}"), (wrong, b"x" * 2000), ({}, None)):
            before = len(self.receiver.strangers)
            response = await self.request("POST", "/captures", headers, body)
            self.assertEqual(response.code, 401)
            self.assertEqual(self.receiver.strangers[before:], ["http"])
        self.receiver.strangers.clear()
        for method, path in (
            ("GET", "/captures"),
            ("PUT", "/captures"),
            ("POST", "/captures/a1"),
            ("DELETE", "/captures/a1"),
            ("POST", "/nothing"),
        ):
            self.assertEqual((await self.request(method, path)).code, 401, path)
        foreign = {**JSON, "Origin": ["http://elsewhere.example"]}
        response = await self.request("POST", "/captures", foreign, b"{}")
        self.assertEqual(response.code, 403)
        right = {**JSON, "Authorization": ["Bearer " + self.token]}
        response = await self.request("POST", "/captures", right, b"{}")
        self.assertEqual(response.code, 202)
        self.assertEqual(self.receiver.strangers, [])

    async def test_authorized(self) -> None:
        """
        With the token all is as without one, and no log line tells it.
        """
        headers = {**JSON, "Authorization": ["Bearer " + self.token]}
        path = f"/captures?token={self.token}"
        with capturedLogs() as events:
            response = await self.request("POST", path, headers, b"{}")
        self.assertEqual(response.code, 202)
        lines = [formatEvent(event) for event in events]
        self.assertNotIn(self.token, repr(events) + "".join(lines))


class BodyTests(ListenerTestCase):
    """
    Bodies are bounded.
    """

    async def test_atTheLimit(self) -> None:
        """
        A body may be as large as a message, and no byte larger.
        """
        self.assertEqual((await self.post(b"x" * 1000)).code, 202)
        self.assertEqual((await self.post(b"x" * 1001)).code, 413)
        self.assertEqual(self.receiver.sizes, [1001])
        self.assertEqual(len(self.receiver.messages), 1)

    async def test_large(self) -> None:
        """
        Who sends 10 MB is told that this is too much, even if it hears nothing
        before it has sent all.
        """
        port = self.listener.port

        def send() -> tuple[int, bytes]:
            client = HTTPConnection("127.0.0.1", port)
            headers = {"Content-Type": "application/json"}
            client.request("POST", "/captures", b"x" * 10_000_000, headers)
            with client.getresponse() as response:
                return response.status, response.read()

        code, body = await deferToThread(send)
        self.assertEqual(code, 413)
        self.assertEqual(
            json.loads(body),
            {"reason": "too-large", "detail": "10000000 bytes by http"},
        )
        self.assertEqual(self.receiver.sizes, [10_000_000])
        self.assertEqual(self.receiver.messages, [])

    async def test_announced(self) -> None:
        """
        Who announces too much is refused before anything is sent, and not asked
        to go on.
        """
        raw = await self.raw(
            POST + b"Expect: 100-continue\r\nContent-Length: 9999999999\r\n\r\n"
        )
        self.assertTrue(raw.startswith(b"HTTP/1.1 413 "), raw)
        self.assertIn(b"\r\nConnection: close\r\n", raw)
        self.assertEqual(self.receiver.sizes, [9999999999])

    async def test_expected(self) -> None:
        """
        Who waits to be asked to go on is asked.
        """
        client = await self.connect(
            POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        await client.until(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.transport.write(b"{}")
        await client.until(b"HTTP/1.1 202 ")

    async def test_chunks(self) -> None:
        """
        A body in chunks is put together.
        """
        client = await self.connect(CHUNKED + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n")
        await client.until(b"HTTP/1.1 202 ")
        self.assertEqual(self.receiver.messages, [(b"{}", "http")])

    async def test_largeInChunks(self) -> None:
        """
        A body in chunks is cut off when it grows too large, whether or not its
        end is in sight, and answered once.
        """
        for rest in (b"", b"1f4\r\n", b"0\r\n\r\n", b"0\r\n\r\n" + GET, b"nonsense"):
            self.receiver.sizes.clear()
            chunk = b"258\r\n" + b"x" * 600 + b"\r\n"
            raw = await self.raw(CHUNKED + chunk + chunk + rest)
            self.assertTrue(raw.startswith(b"HTTP/1.1 413 "), raw)
            self.assertEqual(raw.count(b"HTTP/1.1"), 1, raw)
            self.assertEqual(self.receiver.sizes, [1200])
        self.assertEqual(self.receiver.messages, [])

    async def test_largeElsewhere(self) -> None:
        """
        A body that nobody wants is not waited for, either.
        """
        raw = await self.raw(
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n"
        )
        self.assertTrue(raw.startswith(b"HTTP/1.1 200 "), raw)

    async def test_nonsense(self) -> None:
        """
        What is not HTTP is refused without a trace in the log.
        """
        for data in (
            b"nonsense\r\n\r\n",
            b"GET /captures HTTP/3.0\r\n\r\n",
            POST + b"Content-Length: -1\r\n\r\n",
            POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
            POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            CHUNKED + b"zz\r\n",
        ):
            raw = await self.raw(data)
            self.assertTrue(raw.startswith(b"HTTP/1.1 400 "), raw)
        self.assertEqual(self.receiver.messages, [])

    async def test_odd(self) -> None:
        """
        A request that names no host, or another, is turned away, and so is one
        for the server as such.
        """
        for data, code in (
            (b"GET /captures HTTP/1.0\r\n\r\n", b"403"),
            (b"GET /captures HTTP/1.0\r\nHost: evil.example\r\n\r\n", b"403"),
            (b"GET /captures HTTP/1.0\r\nHost: localhost\r\n\r\n", b"200"),
            (b"OPTIONS * HTTP/1.0\r\nHost: localhost\r\n\r\n", b"404"),
            (b"GET /\xa7 HTTP/1.0\r\nHost: localhost\r\n\r\n", b"404"),
        ):
            raw = await self.raw(data)
            self.assertEqual(raw.split(b" ")[1], code, raw)


class PortTests(ListenerTestCase):
    """
    The service and its port.
    """

    def test_connected(self) -> None:
        """
        It is connected as long as it listens, on the port that it then tells.
        """
        self.assertTrue(self.listener.connected)
        self.assertNotEqual(self.listener.port, 0)
        stopped = self.listener.stopService()
        self.assertFalse(self.listener.connected)
        return stopped  # type: ignore[return-value]

    def test_taken(self) -> None:
        """
        A port that somebody has is a clear error.
        """
        second = self.makeListener(self.listener.port)
        error = self.assertRaises(StartError, second.startService)
        self.assertRegex(
            str(error),
            rf"\[http\] host, port: cannot listen on 127.0.0.1 port"
            rf" {self.listener.port}: .*in use",
        )
        self.assertFalse(second.connected)
        self.assertFalse(second.running)

    async def test_gone(self) -> None:
        """
        The kernel gives up a client that is gone without a word as soon as we
        would one that does not read.
        """
        with socket.create_connection(("127.0.0.1", self.listener.port)):
            site: Any = self.listener._site
            await until(reactor, lambda: site.channels, "a connection")
            [channel] = site.channels
            handle = channel.transport.getHandle()
        timeout = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        self.assertEqual(timeout, self.listener.requestTimeout * 1000)

    async def test_privileged(self) -> None:
        """
        What is bound while there is privilege is bound once.
        """
        listener = self.makeListener()
        listener.privilegedStartService()
        port = listener.port
        listener.startService()
        self.assertEqual(listener.port, port)
        await listener.stopService()

    async def test_ipv6(self) -> None:
        """
        The loopback address of IPv6 is as good.
        """
        listener = self.makeListener()
        listener._host = "::1"
        try:
            listener.startService()
        except StartError as e:
            raise SkipTest(str(e)) from e
        self.addCleanup(listener.stopService)
        path = f"http://[::1]:{listener.port}/captures".encode("ascii")
        response = await Agent(reactor).request(b"GET", path)
        self.assertEqual(response.code, 200)

    async def test_idleAtTheEnd(self) -> None:
        """
        A connection that waits for a next request is closed when it stops, and it
        can be started again.
        """
        client = await self.connect(GET)
        await client.until(b"}\n")
        await self.listener.stopService()
        await client.closed
        self.listener.startService()
        self.assertEqual((await self.post()).code, 202)

    async def test_busyAtTheEnd(self) -> None:
        """
        A request under way when it stops is still answered.
        """
        self.receiver.answer = None
        client = await self.connect(POST + b"Content-Length: 2\r\n\r\n{}")
        received: Deferred[None] = Deferred()
        receive = self.receiver.receive

        def receiveAndTell(message: bytes, bus: str) -> Deferred[Answer]:
            received.callback(None)
            return receive(message, bus)

        self.receiver.receive = receiveAndTell  # type: ignore[method-assign]
        await received
        stopped = self.listener.stopService()
        self.receiver.later.callback(TAKEN)
        self.assertIn(b"HTTP/1.1 202 ", await client.closed)
        await stopped

    async def test_many(self) -> None:
        """
        Connections that were closed no longer count among those that may be open.
        """
        for _ in range(1000):
            response = await self.post()
            self.assertEqual(response.code, 202)
        self.assertEqual(len(self.receiver.messages), 1000)


class MemoryTests(SynchronousTestCase):
    """
    Connections as time goes by.
    """

    def setUp(self) -> None:
        """
        Start a listener that no network reaches.
        """
        self.reactor = MemoryReactorClock()
        self.receiver = FakeReceiver()
        self.listener = HttpListener(
            self.reactor,
            "127.0.0.1",
            8477,
            "",
            makeServed(self.receiver, FakeControl(), clock=self.reactor),
        )
        self.listener.maxConnections = 2
        self.listener.startService()

    def connect(self) -> StringTransportWithDisconnection | None:
        """
        Connect, if that is possible.
        """
        factory = self.reactor.tcpServers[0][1]
        channel: Any = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        if channel is None:
            return None
        transport = StringTransportWithDisconnection()
        transport.protocol = channel
        channel.makeConnection(transport)
        return transport

    def test_limit(self) -> None:
        """
        Connections beyond the limit are closed, with one word to the log, until
        others are.
        """
        with capturedLogs() as events:
            first = self.connect()
            assert first is not None
            self.assertIsNotNone(self.connect())
            self.assertIsNone(self.connect())
            self.assertIsNone(self.connect())
            first.loseConnection()
            self.assertIsNotNone(self.connect())
        self.assertEqual(
            [formatEvent(event) for event in events],
            ["2 HTTP connections are open, further ones are closed"],
        )

    def test_fewDescriptors(self) -> None:
        """
        Where descriptors are few most of them are left to captures.
        """
        self.successResultOf(self.listener.stopService())
        self.listener.maxConnections = 200
        self.reactor.tcpServers.clear()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for descriptors, connections, streams in ((100, 25, 6), (1000, 200, 50)):
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))
            try:
                self.listener.startService()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            site: Any = self.reactor.tcpServers.pop()[1]
            self.assertEqual(
                (site.maxChannels, site.maxStreams), (connections, streams)
            )
            self.successResultOf(self.listener.stopService())

    def test_trickle(self) -> None:
        """
        Who sends a request byte by byte gets no more time than others.
        """
        for start in (b"GET / HTTP/1.1\r\nX: ", POST + b"Content-Length: 99\r\n\r\n"):
            transport = self.connect()
            assert transport is not None
            transport.protocol.dataReceived(start)
            for _ in range(59):
                self.reactor.advance(1)
                transport.protocol.dataReceived(b"x")
            self.assertTrue(transport.connected)
            self.reactor.advance(1)
            self.assertFalse(transport.connected)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_keepAlive(self) -> None:
        """
        A connection may wait for its next request, and not for ever.
        """
        transport = self.connect()
        assert transport is not None
        for _ in range(3):
            self.reactor.advance(50)
            transport.protocol.dataReceived(GET)
        self.assertEqual(transport.value().count(b"HTTP/1.1 200 "), 3)
        self.reactor.advance(60)
        self.assertFalse(transport.connected)

    def test_slowAnswer(self) -> None:
        """
        The time that the daemon takes is not held against the client.
        """
        self.receiver.answer = None
        transport = self.connect()
        assert transport is not None
        transport.protocol.dataReceived(POST + b"Content-Length: 2\r\n\r\n{}")
        self.reactor.advance(3600)
        self.receiver.later.callback(TAKEN)
        self.assertIn(b"HTTP/1.1 202 ", transport.value())

    def test_impatient(self) -> None:
        """
        A client that hangs up before the answer hurts nobody.
        """
        self.receiver.answer = None
        transport = self.connect()
        assert transport is not None
        transport.protocol.dataReceived(POST + b"Content-Length: 2\r\n\r\n{}")
        transport.loseConnection()
        self.receiver.later.callback(TAKEN)
        self.assertEqual(len(self.receiver.messages), 1)
        self.assertEqual(transport.value(), b"")
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_end(self) -> None:
        """
        When it stops, idle connections close at once, and those with a request,
        even half of one, with the answer.
        """
        self.receiver.answer = None
        idle, busy = self.connect(), self.connect()
        assert idle is not None and busy is not None
        idle.protocol.dataReceived(GET)
        busy.protocol.dataReceived(POST)
        stopped = self.listener.stopService()
        self.assertFalse(idle.connected)
        busy.protocol.dataReceived(b"Content-Length: 2\r\n\r\n{}")
        self.assertNoResult(stopped)
        self.receiver.later.callback(TAKEN)
        self.successResultOf(stopped)
        self.assertIn(b"HTTP/1.1 202 ", busy.value())
        self.assertFalse(busy.connected)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stubborn(self) -> None:
        """
        A request that is never answered does not hold up the end.
        """
        self.receiver.answer = None
        transport = self.connect()
        assert transport is not None
        transport.protocol.dataReceived(POST + b"Content-Length: 2\r\n\r\n{}")
        stopped = self.listener.stopService()
        self.assertNoResult(stopped)
        self.reactor.advance(self.listener.grace)
        self.successResultOf(stopped)
        self.assertFalse(transport.connected)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_unread(self) -> None:
        """
        A client that leaves the last answer unread is dropped in the end.
        """
        transport = self.connect()
        assert transport is not None
        aborted: list[bool] = []
        # As a transport with bytes to send: it stays until that is done.
        transport.loseConnection = lambda: None  # type: ignore[method-assign]
        transport.abortConnection = lambda: aborted.append(True)  # type: ignore[method-assign]
        transport.protocol.dataReceived(
            b"GET /captures HTTP/1.0\r\nHost: localhost\r\n\r\n"
        )
        self.reactor.advance(14)
        self.assertEqual(aborted, [])
        self.reactor.advance(1)
        self.assertEqual(aborted, [True])
