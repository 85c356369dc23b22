# See LICENSE for details.
# mypy: allow-untyped-calls
"""
Tests for L{pcapdaemon.listeners.http.looking} and for the files of captures.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import deferLater

from pcapdaemon.events import Events
from pcapdaemon.interfaces import Reason, Refused
from pcapdaemon.kept import Shelf
from pcapdaemon.listeners.http import Feed, Served
from pcapdaemon.test.fixtures import makeRecording
from pcapdaemon.test.test_http import JSON, ListenerTestCase, RawClient, makeServed


class LookingCase(ListenerTestCase):
    """
    A listener that tells what the test wants.
    """

    devices: list[Deferred[Any]]
    judged: list[bytes]

    def makeServed(self) -> Served:
        """
        What the test tells.
        """
        self.events = Events("node-a", reactor.seconds)
        self.watching = 0
        self.devices = []
        self.judged = []
        self.shelf = Shelf(1_000_000)
        self.addCleanup(self.shelf.close)
        return makeServed(
            self.receiver,
            self.control,
            feed=Feed(self.events, self.watch, reactor),
            shelf=self.shelf,
            devices=self.look,
            judge=self.judge,
        )

    def watch(self) -> Any:
        """
        Take note.
        """
        self.watching += 1

        def leave() -> None:
            self.watching -= 1

        return leave

    def look(self) -> Deferred[Any]:
        """
        Devices that the test tells.
        """
        self.devices.append(Deferred())
        return self.devices[-1]

    def judge(self, message: bytes) -> Deferred[Any]:
        """
        Never find anything good.
        """
        self.judged.append(message)
        if message == b"bug":
            return fail(RuntimeError("inside"))
        if message == b"wait":
            return Deferred()
        return fail(Refused(Reason.TOO_COMPLEX, "bpf: too much"))

    async def watcher(self, query: str = "", header: bytes = b"") -> RawClient:
        """
        One who watches, once it is known that it does.
        """
        client = await self.connect(
            b"GET /events%b HTTP/1.1\r\nHost: localhost\r\n%b\r\n"
            % (query.encode(), header)
        )
        await client.until(b"retry: ")
        return client

    async def filter(self, body: bytes) -> Any:
        """
        Ask for a look at a filter.
        """
        return await self.request("POST", "/filters", JSON, body)


class LookingTests(LookingCase):
    """
    What helps to watch and to ask.
    """

    async def test_events(self) -> None:
        """
        What happens comes as it happens; who goes is forgotten.
        """
        client = await self.watcher()
        self.assertIn(b"Content-Type: text/event-stream\r\n", client.received)
        self.assertIn(b"Cache-Control: no-store\r\n", client.received)
        self.assertEqual(self.watching, 1)
        self.events.emit("accepted", "a1", {})
        await client.until(b'"id":"a1"')
        client.transport.loseConnection()
        while self.watching:
            await deferLater(reactor, 0.001)

    async def test_resume(self) -> None:
        """
        The last number counts in the header, and else in the query.
        """
        first = await self.watcher()
        for id in ("a1", "a2", "a3"):
            self.events.emit("accepted", id, {})
        await first.until(b'"id":"a3"')
        ids = [
            line.removeprefix(b"id: ")
            for line in first.received.split(b"\n")
            if line.startswith(b"id: ")
        ]
        client = await self.watcher(f"?last={ids[2].decode()}")
        await client.until(b'"id":"a3"')
        self.assertNotIn(b'"id":"a2"', client.received)
        header = b"Last-Event-ID: %b\r\n" % ids[1]
        client = await self.watcher(f"?last={ids[3].decode()}", header)
        await client.until(b'"id":"a3"')
        self.assertIn(b'"id":"a2"', client.received)
        self.assertNotIn(b'"id":"a1"', client.received)

    async def test_wish(self) -> None:
        """
        Who wants one request, or no progress, says so; nonsense is refused.
        """
        client = await self.watcher("?request_id=r%201&progress=0")
        self.assertEqual(self.watching, 0)
        self.events.emit("accepted", "a1", {"request_id": "r 2"})
        self.events.emit("accepted", "a2", {"request_id": "r 1"})
        await client.until(b'"id":"a2"')
        self.assertNotIn(b'"id":"a1"', client.received)
        for query in ("progress=yes", "progress=", "request_id=" + "x" * 201):
            response = await self.request("GET", f"/events?{query}")
            self.assertEqual(response.code, 422, query)
            self.assertEqual(response.json()["reason"], "invalid")
            self.assertIn(query.partition("=")[0], response.json()["detail"])

    async def test_bytes(self) -> None:
        """
        A last number that is no text is one that nobody gave.
        """
        client = await self.watcher("?last=%ff", b"Last-Event-ID: \xff\r\n")
        await client.until(b'"reason": "unknown"')

    async def test_end(self) -> None:
        """
        When the listener stops, who watches is told at once.
        """
        client = await self.watcher()
        await self.listener.stopService()
        received = await client.closed
        self.assertTrue(received.endswith(b"\r\n0\r\n\r\n"))
        self.assertEqual(self.watching, 0)

    async def test_refusals(self) -> None:
        """
        Refusals are shown.
        """
        response = await self.request("GET", "/refusals")
        self.assertEqual(response.code, 200)
        self.assertEqual(response.json(), {"refusals": self.control.refusals()})

    async def test_interfaces(self) -> None:
        """
        One look at the devices serves all who wait for one; the next one is new.
        """
        answers = [Deferred.fromCoroutine(self.request("GET", "/interfaces"))]
        while not self.devices:
            await deferLater(reactor, 0.001)
        second = await self.connect(
            b"GET /interfaces HTTP/1.0\r\nHost: localhost\r\n\r\n"
            b"GET /interfaces HTTP/1.0\r\nHost: localhost\r\n\r\n"
        )
        await self.request("GET", "/healthz")
        self.assertEqual(len(self.devices), 1)
        self.devices[0].callback([{"name": "lo"}])
        response = await answers[0]
        self.assertEqual(response.json(), {"interfaces": [{"name": "lo"}]})
        self.assertIn(b'{"interfaces": [{"name": "lo"}]}', await second.closed)
        third = Deferred.fromCoroutine(self.request("GET", "/interfaces"))
        while len(self.devices) < 2:
            await deferLater(reactor, 0.001)
        self.devices[1].errback(RuntimeError("inside"))
        self.assertEqual((await third).code, 500)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    async def test_filters(self) -> None:
        """
        A filter that would be refused is refused as a request with it.
        """
        response = await self.filter(b"{}")
        self.assertEqual(response.code, 422)
        self.assertEqual(
            response.json(), {"reason": "filter-too-complex", "detail": "bpf: too much"}
        )
        self.assertEqual(self.judged, [b"{}"])
        response = await self.request("POST", "/filters", None, b"{}")
        self.assertEqual(response.code, 415)
        response = await self.filter(b"x" * 1001)
        self.assertEqual((response.code, len(self.judged)), (413, 1))
        self.assertEqual(self.receiver.sizes, [])
        self.assertEqual((await self.filter(b"bug")).code, 500)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    async def test_manyFilters(self) -> None:
        """
        Few are looked at at once, few wait, and the rest are sent away.
        """
        body = b"wait"
        post = (
            b"POST /filters HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        ) % (len(body), body)
        for _ in range(18):
            await self.connect(post)
        while True:
            response = await self.filter(b"wait")
            if response.code == 429:
                break
        self.assertEqual(response.json()["reason"], "busy")
        self.assertTrue(response.header("Retry-After"))
        self.assertEqual(self.judged, [b"wait", b"wait"])

    async def test_file(self) -> None:
        """
        The file of a capture is there while it is kept, whole or in parts.
        """
        content = b"pcap" * 100_000
        recording = makeRecording(self, "b2", content)
        self.shelf.keep(recording)
        recording.close()
        summary = (await self.request("GET", "/captures/b2")).json()
        self.assertEqual(summary["file"], "/captures/b2/file")
        captures = (await self.request("GET", "/captures")).json()["captures"]
        self.assertEqual([c.get("file") for c in captures], [None, summary["file"]])
        response = await self.request("GET", summary["file"])
        self.assertEqual((response.code, response.body), (200, content))
        self.assertEqual(
            response.header("Content-Type"), "application/vnd.tcpdump.pcap"
        )
        self.assertEqual(
            response.header("Content-Disposition"),
            f'attachment; filename="{recording.filename}"',
        )
        digest = sha256(content).hexdigest()
        self.assertEqual(response.header("ETag"), f'"{digest}"')
        response = await self.request(
            "GET", summary["file"], {"Range": ["bytes=399996-"]}
        )
        self.assertEqual((response.code, response.body), (206, b"pcap"))
        self.shelf.budget = 0
        for path in (summary["file"], "/captures/nothing/file"):
            response = await self.request("GET", path)
            self.assertEqual(response.code, 404)
            self.assertIn("[http] files", response.json()["detail"])
        self.assertNotIn("file", (await self.request("GET", "/captures/b2")).json())


class TokenTests(LookingCase):
    """
    A listener with a token, which all of this needs.
    """

    token = "sesame-42"

    async def test_unauthorized(self) -> None:
        """
        Nothing is told without it.
        """
        for path in ("/events", "/refusals", "/interfaces", "/captures/b2/file"):
            response = await self.request("GET", path)
            self.assertEqual(response.code, 401, path)
        self.assertEqual((await self.filter(b"{}")).code, 401)
        self.assertEqual((self.devices, self.judged), ([], []))
