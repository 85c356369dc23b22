# See LICENSE for details.
# mypy: allow-untyped-calls
"""
Tests for L{pcapdaemon.listeners.http}: what it answers, over a real port.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import attrs
from zope.interface import implementer
from zope.interface.verify import verifyObject

from twisted.application.service import IService
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, FileBodyProducer, readBody
from twisted.web.http_headers import Headers

from pcapdaemon.events import Events
from pcapdaemon.interfaces import (
    Answer,
    ICaptureControl,
    IListener,
    IMessageReceiver,
    Reason,
    Verdict,
)
from pcapdaemon.kept import Shelf
from pcapdaemon.listeners.http import Feed, HttpListener, Served

JSON = {"Content-Type": ["application/json"]}
TAKEN = Answer(Verdict.TAKEN, ("a1", "b2"))


@implementer(IMessageReceiver)
class FakeReceiver:
    """
    Says the same of every message.

    @ivar answer: What it says; L{None} to have nobody answered before C{later}.
    @ivar later: What fires with an answer then.
    @ivar messages: What it was handed, with the bus.
    @ivar sizes: What it was told of messages cut off.
    @ivar strangers: By which bus somebody came who may not.
    """

    maxmessage = 1000

    def __init__(self) -> None:
        self.answer: Answer | None = TAKEN
        self.later: Deferred[Answer] = Deferred()
        self.messages: list[tuple[bytes, str]] = []
        self.sizes: list[int] = []
        self.strangers: list[str] = []

    def receive(self, message: bytes, bus: str) -> Deferred[Answer]:
        """
        Remember it.
        """
        self.messages.append((message, bus))
        return self.later if self.answer is None else succeed(self.answer)

    def oversized(self, size: int, bus: str) -> Answer:
        """
        Remember it.
        """
        self.sizes.append(size)
        return Answer(Verdict.REFUSED, (), Reason.TOO_LARGE, f"{size} bytes by {bus}")

    def unauthorized(self, bus: str) -> Answer:
        """
        Remember it.
        """
        self.strangers.append(bus)
        return Answer(Verdict.REFUSED, (), Reason.UNAUTHORIZED, f"stranger by {bus}")


@implementer(ICaptureControl)
class FakeControl:
    """
    Knows a running capture and a finished one.
    """

    def __init__(self) -> None:
        self.states = {"a1": "armed", "b2": "completed"}

    def summaries(self) -> list[dict[str, Any]]:
        """
        Both.
        """
        return [{"id": id, "state": state} for id, state in self.states.items()]

    def summary(self, id: str) -> dict[str, Any] | None:
        """
        One of them.
        """
        return next((each for each in self.summaries() if each["id"] == id), None)

    def refusals(self) -> list[Mapping[str, Any]]:
        """
        One.
        """
        return [{"event": "rejected", "reason": "busy"}]

    def cancel(self, id: str) -> bool:
        """
        End the running one.
        """
        running = self.states.get(id) == "armed"
        if running:
            self.states[id] = "completed"
        return running


def makeServed(
    receiver: FakeReceiver,
    control: FakeControl,
    health: Callable[[], dict[str, Any]] = lambda: {"status": "ok"},
    clock: Any = reactor,
    **others: Any,
) -> Served:
    """
    What a listener serves.

    @param others: What it serves beyond that; else nothing happens, nothing is
        kept, there is no device, and every filter is good.
    """
    events = Events("node-a", clock.seconds)
    others.setdefault("feed", Feed(events, lambda: lambda: None, clock))
    others.setdefault("shelf", Shelf())
    others.setdefault("devices", lambda: succeed([]))
    others.setdefault("judge", lambda message: succeed({"bpf": ""}))
    return Served(receiver, control, health, **others)


@attrs.frozen
class Response:
    """
    What came back.
    """

    code: int
    headers: Headers
    body: bytes

    def json(self) -> Any:
        """
        The body, which must be one line.
        """
        assert self.body.endswith(b"}\n"), self.body
        return json.loads(self.body.decode("utf-8"))

    def header(self, name: str) -> str:
        """
        A header that must be there once.
        """
        (value,) = self.headers.getRawHeaders(name, [])
        return str(value)


class RawClient(Protocol):
    """
    Shows what comes as bytes.

    @ivar received: All that has come.
    @ivar closed: Fires with it when the server has closed.
    """

    transport: ITCPTransport

    def __init__(self) -> None:
        self.received = b""
        self.closed: Deferred[bytes] = Deferred()
        self._awaited: list[tuple[bytes, Deferred[None]]] = []

    def until(self, end: bytes) -> Deferred[None]:
        """
        Wait for some bytes.
        """
        done: Deferred[None] = Deferred()
        self._awaited.append((end, done))
        self.dataReceived(b"")
        return done

    def dataReceived(self, data: bytes) -> None:
        """
        Take note.
        """
        self.received += data
        for end, done in self._awaited[:]:
            if end in self.received:
                self._awaited.remove((end, done))
                done.callback(None)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """
        Tell.
        """
        self.closed.callback(self.received)


class ListenerTestCase(TestCase):
    """
    A listener on a real port.
    """

    token = ""

    def setUp(self) -> None:
        """
        Start one.
        """
        self.receiver = FakeReceiver()
        self.control = FakeControl()
        self.health: dict[str, Any] = {"status": "ok"}
        self.listener = self.makeListener()
        self.listener.startService()
        self.addCleanup(self.listener.stopService)

    def makeServed(self) -> Served:
        """
        What it serves.
        """
        return makeServed(self.receiver, self.control, lambda: self.health)

    def makeListener(self, port: int = 0) -> HttpListener:
        """
        Make one that is not started.
        """
        return HttpListener(
            reactor,
            "127.0.0.1",
            port,
            self.token,
            self.makeServed(),
        )

    async def request(
        self,
        method: str,
        path: str,
        headers: dict[str, list[str]] | None = None,
        body: bytes | None = None,
    ) -> Response:
        """
        Ask it for something, on a connection of its own.
        """
        response = await Agent(reactor).request(
            method.encode("ascii"),
            f"http://127.0.0.1:{self.listener.port}{path}".encode("ascii"),
            Headers(headers or {}),
            None if body is None else FileBodyProducer(BytesIO(body)),
        )
        return Response(response.code, response.headers, await readBody(response))

    async def post(self, body: bytes = b"{}") -> Response:
        """
        Ask for captures.
        """
        return await self.request("POST", "/captures", JSON, body)

    async def connect(self, data: bytes) -> RawClient:
        """
        Connect and send some bytes.
        """
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.listener.port)
        client = RawClient()
        await connectProtocol(endpoint, client)
        client.transport.write(data)

        async def close() -> None:
            client.transport.abortConnection()
            if not client.closed.called:
                await client.closed

        self.addCleanup(lambda: Deferred.fromCoroutine(close()))
        return client

    async def raw(self, data: bytes) -> bytes:
        """
        What comes back for some bytes until the server closes.
        """
        client = await self.connect(data)
        return await client.closed


class RouteTests(ListenerTestCase):
    """
    What there is to be asked for.
    """

    def test_interfaces(self) -> None:
        """
        The listener and the fakes provide what they say they do.
        """
        verifyObject(IListener, self.listener)
        verifyObject(IService, self.listener)
        verifyObject(IMessageReceiver, self.receiver)
        verifyObject(ICaptureControl, self.control)

    async def test_taken(self) -> None:
        """
        A request that is taken is answered with the captures' names, and it is
        handed on byte for byte.
        """
        body = b'{"node": "any"}\xff\x00'
        response = await self.post(body)
        self.assertEqual(response.code, 202)
        self.assertEqual(response.json(), {"ids": ["a1", "b2"]})
        self.assertEqual(response.header("Location"), "/captures/a1")
        self.assertEqual(self.receiver.messages, [(body, "http")])

    async def test_refused(self) -> None:
        """
        Each reason of a refusal has its status.
        """
        expected = {
            Reason.MALFORMED: 400,
            Reason.UNAUTHORIZED: 401,
            Reason.DUPLICATE: 409,
            Reason.TOO_LARGE: 413,
            Reason.INVALID: 422,
            Reason.LIMIT: 422,
            Reason.UNKNOWN_INTERFACE: 422,
            Reason.UNKNOWN_ALIAS: 422,
            Reason.BAD_FILTER: 422,
            Reason.TOO_COMPLEX: 422,
            Reason.BUSY: 429,
            Reason.CLOSING: 503,
        }
        words = {value for name, value in vars(Reason).items() if name.isupper()}
        self.assertEqual(words, set(expected))
        for reason, code in expected.items():
            detail = "snap: 0 ist zu wenig für \ud800"
            self.receiver.answer = Answer(Verdict.REFUSED, (), reason, detail)
            response = await self.post()
            self.assertEqual(response.code, code, reason)
            self.assertEqual(response.json(), {"reason": reason, "detail": detail})
            self.assertEqual(
                response.headers.hasHeader("Retry-After"), code in (429, 503)
            )
            self.assertEqual(
                response.headers.hasHeader("WWW-Authenticate"), code == 401
            )

    async def test_notOurs(self) -> None:
        """
        A request for another node is a misdirected one.
        """
        self.receiver.answer = Answer(Verdict.NOT_OURS)
        response = await self.post()
        self.assertEqual(response.code, 421)
        self.assertEqual(response.json()["reason"], "not-ours")

    async def test_contentType(self) -> None:
        """
        Only JSON is taken, with parameters or without.
        """
        for kind in ("text/plain", "application/jsonp", "multipart/form-data", ""):
            response = await self.request(
                "POST", "/captures", {"Content-Type": [kind]}, b"{}"
            )
            self.assertEqual(response.code, 415, kind)
        response = await self.request("POST", "/captures", None, b"{}")
        self.assertEqual(response.code, 415)
        self.assertEqual(self.receiver.messages, [])
        kind = "Application/JSON; charset=utf-8"
        response = await self.request(
            "POST", "/captures", {"Content-Type": [kind]}, b"{}"
        )
        self.assertEqual(response.code, 202)

    async def test_captures(self) -> None:
        """
        Captures are shown, all and one, and unknown ones are not.
        """
        response = await self.request("GET", "/captures")
        self.assertEqual(response.code, 200)
        self.assertEqual(response.json(), {"captures": self.control.summaries()})
        response = await self.request("GET", "/captures/a1")
        self.assertEqual(response.code, 200)
        self.assertEqual(response.json(), {"id": "a1", "state": "armed"})
        for path in ("/captures/c3", "/captures/", "/captures/%ff%00%2fa1"):
            response = await self.request("GET", path)
            self.assertEqual(response.code, 404, path)
            self.assertEqual(response.json()["reason"], "not-found")

    async def test_cancel(self) -> None:
        """
        A running capture is cancelled, once; an unknown one is not.
        """
        response = await self.request("DELETE", "/captures/a1")
        self.assertEqual(response.code, 202)
        self.assertEqual(response.json(), {"id": "a1", "state": "cancelled"})
        response = await self.request("DELETE", "/captures/a1")
        self.assertEqual(response.code, 409)
        self.assertEqual(response.json()["reason"], "finished")
        response = await self.request("DELETE", "/captures/c3")
        self.assertEqual(response.code, 404)

    async def test_health(self) -> None:
        """
        A degraded daemon works, one in any other state does not.
        """
        for status, code in (("ok", 200), ("degraded", 200), ("failed", 503)):
            self.health["status"] = status
            response = await self.request("GET", "/healthz")
            self.assertEqual(response.code, code)
            self.assertEqual(response.json(), {"status": status})

    async def test_elsewhere(self) -> None:
        """
        Where nothing is, that is what is said, whatever the method.
        """
        for path in (
            "/page",
            "/page/",
            "/page/x.js",
            "/capture",
            "/captures/a1/b",
            "/healthz/",
            "//captures",
        ):
            for method in ("GET", "POST", "OPTIONS"):
                response = await self.request(method, path)
                self.assertEqual(response.code, 404, path)
                self.assertEqual(response.json()["reason"], "not-found")

    async def test_methods(self) -> None:
        """
        A method that is not meant is refused with those that are, and nothing
        invites pages of other sites.
        """
        for path, allowed in (
            ("/captures", "GET, HEAD, POST"),
            ("/captures/a1", "DELETE, GET, HEAD"),
            ("/healthz", "GET, HEAD"),
        ):
            for method in ("PUT", "OPTIONS", "BREW", "get"):
                response = await self.request(method, path)
                self.assertEqual(response.code, 405)
                self.assertEqual(response.header("Allow"), allowed)
                self.assertEqual(response.json()["reason"], "method-not-allowed")
                names = [name for name, _ in response.headers.getAllRawHeaders()]
                self.assertFalse([n for n in names if n.startswith(b"Access-Control")])

    async def test_head(self) -> None:
        """
        HEAD answers as GET does, without the body.
        """
        for path in ("/captures", "/captures/a1", "/healthz", "/captures/c3"):
            get = await self.request("GET", path)
            head = await self.request("HEAD", path)
            self.assertEqual(head.code, get.code)
            self.assertEqual(head.body, b"")
            raw = await self.raw(
                b"HEAD %b HTTP/1.0\r\nHost: localhost\r\n\r\n" % path.encode("ascii")
            )
            self.assertIn(b"Content-Length: %d\r\n" % len(get.body), raw)

    async def test_headers(self) -> None:
        """
        No answer is kept by a cache, guessed at by a browser, or tells versions.
        """
        for path in ("/captures", "/healthz", "/nothing"):
            response = await self.request("GET", path)
            self.assertEqual(response.header("Content-Type"), "application/json")
            self.assertEqual(response.header("Cache-Control"), "no-store")
            self.assertEqual(response.header("X-Content-Type-Options"), "nosniff")
            self.assertEqual(response.header("Server"), "pcapdaemon")

    async def test_bug(self) -> None:
        """
        A fault of the daemon is told to the log, once, and not to the client.
        """

        def summaries() -> list[dict[str, Any]]:
            raise RuntimeError("inside")

        self.control.summaries = summaries  # type: ignore[method-assign]
        self.health["load"] = object()
        for path, error in (("/captures", RuntimeError), ("/healthz", TypeError)):
            response = await self.request("GET", path)
            self.assertEqual(response.code, 500)
            self.assertEqual(response.json()["reason"], "internal-error")
            self.assertNotIn(b"inside", response.body)
            self.assertEqual(len(self.flushLoggedErrors(error)), 1)
