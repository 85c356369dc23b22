# See LICENSE for details.
"""
Tests for L{pcapdaemon.sinks.cloudshark} without a network, moved by hand.
"""

from __future__ import annotations

import io
import json
import zlib
from typing import Any, cast
from urllib.parse import quote, quote_plus

import attrs
from multipart import MultipartParser  # type: ignore[import-untyped]
from zope.interface import implementer
from zope.interface.verify import verifyObject

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.testing import (
    MemoryReactorClock,
    StringTransportWithDisconnection,
)
from twisted.logger import ILogObserver, eventAsText, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.capture.recording import Recording
from pcapdaemon.interfaces import ISink, StoreError
from pcapdaemon.sinks.cloudshark import LONGEST, CloudsharkSink
from pcapdaemon.test.cloudshark import TOKEN
from pcapdaemon.test.fixtures import makeRecording

#: The token, in every form in which something could show it.
FORMS = {TOKEN, quote(TOKEN), quote(TOKEN, ""), quote_plus(TOKEN)}


def watchForToken(case: SynchronousTestCase) -> None:
    """
    Fail a test during which the token, in whatever form, is logged.
    """

    @implementer(ILogObserver)
    def observe(event: Any) -> None:
        shown = eventAsText(event) + repr(event)
        if any(form in shown for form in FORMS):
            leaks.append(shown)

    leaks: list[str] = []
    globalLogPublisher.addObserver(observe)
    case.addCleanup(lambda: case.assertEqual(leaks, []))
    case.addCleanup(globalLogPublisher.removeObserver, observe)


def errorOf(case: SynchronousTestCase, failure: Failure) -> StoreError:
    """
    The error in a failure, which must not show the token.
    """
    error = failure.value
    assert isinstance(error, StoreError), failure
    shown = f"{error!r} {failure.getTraceback(detail='verbose')}"
    case.assertEqual([form for form in FORMS if form in shown], [])
    case.assertIsNone(error.__context__)
    case.assertIsNone(error.__cause__)
    return error


class Transport(StringTransportWithDisconnection):
    """
    A connection in memory, also for TLS, that ends some time after it was told
    to, as a real one does.
    """

    reactor: MemoryReactorClock

    def abortConnection(self) -> None:
        self.reactor.callLater(0, self.loseConnection)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """
        There is no delay.
        """


class MemoryTests(SynchronousTestCase):
    """
    A sink whose connections are in memory.
    """

    def setUp(self) -> None:
        watchForToken(self)
        self.reactor = MemoryReactorClock()
        self.recording = makeRecording(self, content=b"pcap\r\n" * 99, tags="ü, b")

    def makeSink(self, **settings: Any) -> CloudsharkSink:
        """A sink that runs, without TLS unless told otherwise."""
        given = {"scheme": "http", "host": "cs", "port": 80, "token": TOKEN, **settings}
        sink = CloudsharkSink(self.reactor, **given)
        sink.startService()
        self.addCleanup(sink.stopService)
        return sink

    def connect(self) -> Transport:
        """
        Let the last connection that was asked for come about.
        """
        factory = self.reactor.tcpClients[-1][2]
        transport = Transport()
        transport.reactor = self.reactor
        transport.protocol = cast(Any, factory.buildProtocol(None))
        transport.protocol.makeConnection(transport)
        return transport

    def start(
        self, recording: Recording | None = None, **settings: Any
    ) -> tuple[Deferred[str], Transport]:
        """
        Start an upload, as far as its last byte.
        """
        storing = self.makeSink(**settings).store(recording or self.recording)
        return storing, self.connect()

    def answer(
        self, body: bytes, status: int = 200, headers: str = "", **settings: Any
    ) -> Deferred[str]:
        """
        Do an upload that is answered.
        """
        storing, transport = self.start(**settings)
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        transport.protocol.dataReceived(head.encode() + body)
        self.reactor.advance(0)
        self.assertFalse(transport.connected)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        return storing

    def error(self, storing: Deferred[str]) -> StoreError:
        """
        The error of an upload, after which nothing may be left of it.
        """
        self.reactor.advance(0)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        return errorOf(self, self.failureResultOf(storing))


class RequestTests(MemoryTests):
    """
    What is sent.
    """

    def test_interfaces(self) -> None:
        """
        It is a sink and a service, and its representation shows no token.
        """
        sink = self.makeSink()
        verifyObject(ISink, sink)
        verifyObject(IService, sink)
        self.assertNotIn(TOKEN, repr(sink))
        self.assertEqual(sink.name, "cloudshark")

    def test_request(self) -> None:
        """
        One form of a known length, with the tags and the file, goes to an address
        that ends the token's own slashes and spaces.
        """
        _storing, transport = self.start()
        head, _, body = transport.value().partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
        self.assertEqual(first, f"POST /api/v1/{quote(TOKEN, '')}/upload HTTP/1.1")
        self.assertEqual(headers["host"], "cs")
        self.assertEqual(headers["accept-encoding"], "identity")
        self.assertEqual(headers["content-length"], str(len(body)))
        kind, _, boundary = headers["content-type"].partition("; boundary=")
        self.assertEqual(kind, "multipart/form-data")
        tags, file = MultipartParser(io.BytesIO(body), boundary, strict=True)
        self.assertEqual(tags.name, "additional_tags")
        self.assertEqual(tags.value, self.recording.plan.tags)
        self.assertEqual(file.name, "file")
        self.assertEqual(file.filename, self.recording.filename)
        self.assertEqual(file.content_type, "application/vnd.tcpdump.pcap")
        with self.recording.open() as stream:
            self.assertEqual(file.raw, stream.read())

    def test_short(self) -> None:
        """
        A file that is not as long as it should be is not passed off as one.
        """
        longer = attrs.evolve(self.recording, size=self.recording.size + 1)
        storing, transport = self.start(longer)
        self.assertTrue(self.error(storing).transient)
        self.assertFalse(transport.connected)

    def test_unreadable(self) -> None:
        """
        A recording that cannot be opened is a failure of this attempt.
        """
        self.recording.close()
        storing = self.makeSink().store(self.recording)
        self.assertTrue(self.error(storing).transient)

    def test_proxied(self) -> None:
        """
        Without TLS a proxy gets the request, for the server.
        """
        _storing, transport = self.start(proxy="http://proxy:3128/", port=8080)
        self.assertEqual(self.reactor.tcpClients[-1][1], 3128)
        line, _, rest = transport.value().partition(b"\r\n")
        target = f"http://cs:8080/api/v1/{quote(TOKEN, '')}/upload"
        self.assertEqual(line.decode(), f"POST {target} HTTP/1.1")
        self.assertIn(b"\r\nHost: cs:8080\r\n", rest)


class ReplyTests(MemoryTests):
    """
    What a reply means.
    """

    def address(self, id: Any = "abc", **settings: Any) -> str:
        """Where an upload is after a good answer."""
        body = json.dumps({"filename": "a.pcap", "id": id}).encode()
        return self.successResultOf(self.answer(body, **settings))

    def test_address(self) -> None:
        """
        The address has scheme, host and identifier, and a port only where it is
        not the usual one.
        """
        for settings, expected in (
            ({}, "http://cs/captures/abc"),
            ({"port": 443}, "http://cs:443/captures/abc"),
            ({"host": "::1", "port": 8080}, "http://[::1]:8080/captures/abc"),
            ({"host": "bücher.example"}, "http://xn--bcher-kva.example/captures/abc"),
            ({"host": "127.0.0.1"}, "http://127.0.0.1/captures/abc"),
        ):
            self.assertEqual(self.address(**settings), expected)

    def test_identifier(self) -> None:
        """
        An identifier is text or a number, and cannot lead elsewhere, nor show the
        token.
        """
        for id, expected in (
            (17, "17"),
            ("a/../b?c#d\n", "a%2F..%2Fb%3Fc%23d%20"),
            ("\ud800", "%20"),
            (f"x{TOKEN}", "x%2A%2A%2A"),
        ):
            self.assertEqual(self.address(id), f"http://cs/captures/{expected}")

    def test_type(self) -> None:
        """
        The type of a reply does not matter.
        """
        storing = self.answer(b'{"id": "a"}', headers="Content-Type: text/html\r\n")
        self.assertEqual(self.successResultOf(storing), "http://cs/captures/a")

    def test_packed(self) -> None:
        """
        A reply that is packed although it should not be is understood.
        """
        packer = zlib.compressobj(wbits=31)
        body = packer.compress(b'{"id": "a"}') + packer.flush()
        storing = self.answer(body, headers="Content-Encoding: gzip\r\n")
        self.assertEqual(self.successResultOf(storing), "http://cs/captures/a")

    def test_notOurs(self) -> None:
        """
        A 200 that is none of CloudShark's is an error for good, as the capture
        may be there.
        """
        for body in (
            b"",
            b"<html>",
            b"[]",
            b"[" * 60_000,
            b'{"id": ""}',
            b'{"id": ".."}',
            b'{"id": null}',
            b'{"id": true}',
            b'{"id": ["a"]}',
            b'{"id": "%s"}' % (b"a" * 201),
            b'{"id": %s}' % (b"9" * 5000),
            b'{"id": "\xff"}',
        ):
            error = self.error(self.answer(body))
            self.assertFalse(error.transient, body)
            self.assertIn("answered 200", str(error))

    def test_statuses(self) -> None:
        """
        Every other status is a failure: for good, or for now.
        """
        for status in (201, 204, 400, 401, 403, 404, 405, 413, 415, 422):
            self.assertFalse(self.error(self.answer(b"{}", status)).transient, status)
        for status in (408, 429, 500, 502, 503, 504, 599):
            self.assertTrue(self.error(self.answer(b"{}", status)).transient, status)

    def test_texts(self) -> None:
        """
        An error has what the server says, in one line, bounded, and without the
        token.
        """
        for says, expected in (
            ({"status": 400, "exceptions": ["Too big", 5]}, "Too big; 5"),
            ({"exceptions": ["a\nb\x1b[0m"]}, "a b [0m"),
            ({"exceptions": [f"no {form}!" for form in sorted(FORMS)]}, "no ***!"),
            ({"exceptions": [quote(TOKEN, "").lower()]}, "***"),
            ({"exceptions": "no list"}, "no reason given"),
            ({"exceptions": []}, "no reason given"),
            (["exceptions"], "no reason given"),
        ):
            error = self.error(self.answer(json.dumps(says).encode(), 400))
            text = str(error).removeprefix("answered 400: ")
            self.assertEqual("; ".join(dict.fromkeys(text.split("; "))), expected)
        long = json.dumps({"exceptions": ["x" * 5000]}).encode()
        self.assertLess(len(str(self.error(self.answer(long, 500)))), 600)

    def test_delay(self) -> None:
        """
        The time that a server asks to wait is taken over, as seconds or as a
        moment on the server's own clock.
        """
        date = "Date: Wed, 21 Oct 2015 07:28:00 GMT\r\n"
        for value, expected in (
            ("7", 7),
            ("0", 0),
            ("Wed, 21 Oct 2015 07:30:00 GMT", 120),
            ("Wed, 21 Oct 2015 07:20:00 GMT", 0),
            ("soon", None),
            ("-1", None),
            ("9" * 5000, None),
        ):
            headers = f"{date}Retry-After: {value}\r\n"
            for status in (429, 503):
                error = self.error(self.answer(b"{}", status, headers))
                self.assertEqual(error.delay, expected, value)
            self.assertIsNone(self.error(self.answer(b"{}", 413, headers)).delay)
        self.assertIsNone(self.error(self.answer(b"{}", 429)).delay)

    def test_redirect(self) -> None:
        """
        A redirect is not followed, nor is it told where it leads to.
        """
        target = f"http://elsewhere/{quote(TOKEN, '')}"
        for status in (301, 302, 303, 307, 308):
            error = self.error(self.answer(b"", status, f"Location: {target}\r\n"))
            self.assertFalse(error.transient)
            self.assertIn("redirect", str(error))
            self.assertNotIn("elsewhere", str(error))
        self.assertEqual({c[1] for c in self.reactor.tcpClients}, {80})

    def test_long(self) -> None:
        """
        No more of a reply is read than can be one, be it body or headers, and the
        status counts nevertheless.
        """
        for status, transient in ((200, False), (404, False), (503, True)):
            for piece in (b"a: " + b"b" * 1000 + b"\r\n", b"\r\n" + b" " * 1000):
                storing, transport = self.start()
                transport.protocol.dataReceived(b"HTTP/1.1 %d X\r\n" % status)
                for _ in range(LONGEST // len(piece)):
                    transport.protocol.dataReceived(piece)
                    self.assertNoResult(storing)
                transport.protocol.dataReceived(piece)
                self.assertEqual(self.error(storing).transient, transient)
                self.assertFalse(transport.connected)
