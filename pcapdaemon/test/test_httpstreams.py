# See LICENSE for details.
# mypy: allow-untyped-calls
"""
Tests for L{pcapdaemon.listeners.http}: answers that are not JSON, and those that
take long.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from zope.interface import implementer

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.listeners.http.guard import Guard
from pcapdaemon.listeners.http.reply import Answering, Content
from pcapdaemon.listeners.http.resource import ApiResource
from pcapdaemon.listeners.http.site import ApiRequest, ApiSite
from pcapdaemon.listeners.http.streams import Download, Stream, byteRange


class Route(ApiResource):
    """
    Answers with one thing.
    """

    isLeaf = True

    def __init__(self, answer: Answering) -> None:
        super().__init__()
        self._answer = answer

    def render_GET(self, request: ApiRequest) -> Answering:
        """
        This.
        """
        return self._answer


@implementer(IPushProducer)
class Ticker:
    """
    A stream that the test writes to.
    """

    def __init__(self, request: ApiRequest) -> None:
        self.request = request
        self.paused = self.stopped = False

    def pauseProducing(self) -> None:
        """
        Take note.
        """
        self.paused = True

    def resumeProducing(self) -> None:
        """
        Take note.
        """
        self.paused = False

    def stopProducing(self) -> None:
        """
        Take note.
        """
        self.stopped = True


class Transport(StringTransportWithDisconnection):
    """
    A connection that a test sees the state of, and where a client may leave
    something C{unread}. It stops what writes to it when it
    goes, as real ones do.
    """

    protocol: Any
    aborted = unread = False

    def loseConnection(self) -> None:
        """
        Go, when all has been read.
        """
        if self.unread and not self.aborted:
            return
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        super().loseConnection()

    def abortConnection(self) -> None:
        """
        Take note, too.
        """
        self.aborted = True
        self.loseConnection()


class SiteTestCase(SynchronousTestCase):
    """
    A site with one route for each kind of answer.

    @ivar file: What C{/file} has; it is closed when that has been sent.
    """

    data = bytes(range(256)) * 4

    def setUp(self) -> None:
        """
        Make it.
        """
        self.clock = Clock()
        self.files: list[BytesIO] = []
        self.tickers: list[Ticker] = []
        headers = {"Content-Security-Policy": "default-src 'none'"}
        root = ApiResource()
        answers: dict[bytes, Answering] = {
            b"page": Content(b"<p>", "text/html; charset=utf-8", headers, "e1"),
            b"file": Download(self.open, len(self.data), "x/y", "e2", {"X-Z": "z"}),
            b"stream": Stream(self.begin, "text/event-stream"),
        }
        for name, answer in answers.items():
            root.putChild(name, Route(answer))
        self.site = ApiSite(
            root, Guard(b"", False), lambda: 1000, 10, 3, 60.0, self.clock
        )

    def open(self) -> BytesIO:
        """
        The file.
        """
        self.files.append(BytesIO(self.data))
        return self.files[-1]

    def begin(self, request: ApiRequest) -> Ticker:
        """
        A stream.
        """
        self.tickers.append(Ticker(request))
        return self.tickers[-1]

    def connect(self, path: str, method: str = "GET", **headers: str) -> Transport:
        """
        Ask for something, on a connection of its own.
        """
        channel: Any = self.site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        transport = Transport()
        transport.protocol = channel
        channel.makeConnection(transport)
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        lines += [f"{name.replace('_', '-')}: {headers[name]}" for name in headers]
        channel.dataReceived("\r\n".join([*lines, "", ""]).encode("latin-1"))
        return transport

    def ask(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """
        @return: The status, the headers and the body.
        """
        transport = self.connect(path, method, **headers)
        self.drain(transport)
        head, _, body = transport.value().partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        return int(first.split()[1]), dict(x.split(": ", 1) for x in rest), body

    def drain(self, transport: Transport) -> None:
        """
        Let a download go on to its end.
        """
        while transport.protocol.requests and self.producer(transport) is not None:
            self.producer(transport).resumeProducing()

    @staticmethod
    def producer(transport: Transport) -> Any:
        """
        What writes to a connection.
        """
        return transport.protocol.requests[0].producer


class ContentTests(SiteTestCase):
    """
    Bytes of any kind.
    """

    def test_page(self) -> None:
        """
        They come with their type and headers, and with those of all answers.
        """
        code, headers, body = self.ask("/page")
        self.assertEqual((code, body), (200, b"<p>"))
        self.assertEqual(headers["Content-Type"], "text/html; charset=utf-8")
        self.assertEqual(headers["Content-Security-Policy"], "default-src 'none'")
        self.assertEqual(headers["Cache-Control"], "no-store")
        self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
        self.assertEqual(headers["ETag"], '"e1"')

    def test_known(self) -> None:
        """
        Who has them does not get them again.
        """
        code, headers, body = self.ask("/page", If_None_Match='"e1"')
        self.assertEqual((code, body), (304, b""))
        self.assertNotIn("Content-Length", headers)


class DownloadTests(SiteTestCase):
    """
    Files.
    """

    def test_whole(self) -> None:
        """
        A file comes whole, and is closed.
        """
        code, headers, body = self.ask("/file")
        self.assertEqual((code, body), (200, self.data))
        self.assertEqual(headers["Content-Length"], "1024")
        self.assertEqual(headers["ETag"], '"e2"')
        self.assertEqual(headers["X-Z"], "z")
        self.assertTrue(self.files[0].closed)
        self.assertEqual(self.site.streams, set())

    def test_head(self) -> None:
        """
        HEAD and who has it already open nothing.
        """
        code, headers, body = self.ask("/file", "HEAD")
        self.assertEqual((code, headers["Content-Length"], body), (200, "1024", b""))
        code, headers, body = self.ask("/file", If_None_Match='"e2"')
        self.assertEqual((code, body), (304, b""))
        self.assertEqual(self.files, [])

    def test_range(self) -> None:
        """
        A part of it comes as what it is; of another file it does not.
        """
        code, headers, body = self.ask("/file", Range="bytes=1000-2000")
        self.assertEqual((code, body), (206, self.data[1000:]))
        self.assertEqual(headers["Content-Range"], "bytes 1000-1023/1024")
        self.assertEqual(headers["Content-Length"], "24")
        code, headers, body = self.ask("/file", Range="bytes=1024-")
        self.assertEqual(code, 416)
        self.assertEqual(headers["Content-Range"], "bytes */1024")
        code, headers, body = self.ask("/file", Range="bytes=1-2", If_Range='"e1"')
        self.assertEqual((code, body), (200, self.data))

    def test_ranges(self) -> None:
        """
        Which ranges there are.
        """
        for header, expected in {
            "bytes=0-0": (0, 1),
            "bytes=10-": (10, 90),
            "bytes=90-1000": (90, 10),
            "bytes=-5": (95, 5),
            "bytes=-500": (0, 100),
            "bytes=-0": (100, 0),
            "bytes=100-100": (100, 0),
            "bytes=100-": (100, 0),
            "bytes=5-4": None,
            "bytes=-": None,
            "bytes=0-1,3-4": None,
            "lines=0-1": None,
            "bytes=a-b": None,
            "bytes=0-" + "9" * 30: None,
        }.items():
            self.assertEqual(byteRange(header, 100), expected, header)

    def test_bytes(self) -> None:
        """
        What no text is in a header is what does not fit.
        """
        code, _, body = self.ask("/file", Range="bytes=\xff", If_Range="\xff")
        self.assertEqual((code, body), (200, self.data))

    def test_gone(self) -> None:
        """
        When the client goes, the file is closed.
        """
        transport = self.connect("/file")
        transport.loseConnection()
        self.assertTrue(self.files[0].closed)
        self.assertEqual(self.site.streams, set())

    def test_stuck(self) -> None:
        """
        A client that does not read is cut off.
        """
        transport = self.connect("/file")
        transport.protocol.pauseProducing()
        self.clock.advance(59)
        self.assertTrue(transport.connected)
        self.clock.advance(1)
        self.assertTrue(transport.aborted)
        self.assertTrue(self.files[0].closed)


class StreamTests(SiteTestCase):
    """
    What has no end.
    """

    def test_time(self) -> None:
        """
        A stream begins at once, and lasts longer than a request may take.
        """
        transport = self.connect("/stream")
        self.assertIn(b"Content-Type: text/event-stream\r\n", transport.value())
        self.clock.advance(1000)
        self.tickers[0].request.write(b"tick")
        self.assertTrue(transport.value().endswith(b"\r\n\r\n4\r\ntick\r\n"))
        self.assertTrue(transport.connected)

    def test_slow(self) -> None:
        """
        Who reads again in time stays; who does not is cut off.
        """
        transport = self.connect("/stream")
        transport.protocol.pauseProducing()
        self.assertTrue(self.tickers[0].paused)
        self.clock.advance(59)
        transport.protocol.resumeProducing()
        self.assertFalse(self.tickers[0].paused)
        self.clock.advance(1000)
        self.assertTrue(transport.connected)
        transport.protocol.pauseProducing()
        self.clock.advance(60)
        self.assertTrue(transport.aborted)
        self.assertTrue(self.tickers[0].stopped)

    def test_most(self) -> None:
        """
        There are only so many, downloads among them, and then the client is
        told; when one goes there is room again.
        """
        first, second = self.connect("/stream"), self.connect("/file")
        third = self.connect("/stream")
        for path in ("/stream", "/file"):
            code, headers, body = self.ask(path, Range="bytes=0-5")
            self.assertEqual(code, 503)
            self.assertIn(b'{"reason": "busy", "detail": "3 streams', body)
            self.assertEqual(headers["Content-Type"], "application/json")
            self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
            self.assertEqual(int(headers["Content-Length"]), len(body))
            self.assertIn("Retry-After", headers)
            self.assertNotIn("ETag", headers)
        self.assertEqual(self.ask("/page")[0], 200)
        first.loseConnection()
        self.assertEqual(self.ask("/file")[0], 200)
        second.loseConnection()
        third.loseConnection()
        self.assertEqual(self.site.streams, set())

    def test_fault(self) -> None:
        """
        A stream that breaks while it is written does not look as if it had ended.
        """

        def resume(ticker: Ticker) -> None:
            raise RuntimeError("inside")

        self.patch(Ticker, "resumeProducing", resume)
        transport = self.connect("/stream")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertTrue(transport.aborted)
        self.assertTrue(self.tickers[0].stopped)
        self.assertEqual(self.site.streams, set())
        self.assertNotIn(b"0\r\n\r\n", transport.value())

    def test_head(self) -> None:
        """
        HEAD takes no place.
        """
        self.assertEqual(self.ask("/stream", "HEAD")[0], 200)
        self.assertEqual((self.tickers, self.site.streams), ([], set()))

    def test_close(self) -> None:
        """
        When the site closes, a stream ends in good order: at once, or when its
        client has read what there is. Who does not read is cut off in the end.
        """
        reader, slow, sleeper = [self.connect("/stream") for _ in range(3)]
        slow.protocol.pauseProducing()
        sleeper.protocol.pauseProducing()
        closed = self.site.close(1.0)
        self.assertTrue(reader.value().endswith(b"\r\n0\r\n\r\n"))
        self.assertTrue(slow.connected)
        slow.protocol.resumeProducing()
        self.assertTrue(slow.value().endswith(b"\r\n0\r\n\r\n"))
        self.assertFalse(reader.aborted or slow.aborted or sleeper.aborted)
        self.clock.advance(0.1)
        self.successResultOf(closed)
        self.assertTrue(sleeper.aborted)
        self.assertTrue(all(ticker.stopped for ticker in self.tickers))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unread(self) -> None:
        """
        Nobody waits long for a client to read the end of a stream.
        """
        transport = self.connect("/stream")
        transport.unread = True
        closed = self.site.close(1.0)
        self.assertNoResult(closed)
        self.clock.advance(0.1)
        self.successResultOf(closed)
        self.assertTrue(transport.aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])
