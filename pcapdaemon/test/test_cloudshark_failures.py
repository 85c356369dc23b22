# See LICENSE for details.
"""
Tests for what L{pcapdaemon.sinks.cloudshark} makes of losses, proxies and
settings, moved by hand.
"""

from __future__ import annotations

import io
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.logger import ILogObserver, eventAsText, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.interfaces import StartError
from pcapdaemon.sinks._upload import Form
from pcapdaemon.sinks.cloudshark import CONNECT, IDLE
from pcapdaemon.test.test_cloudshark import MemoryTests, Transport, errorOf


class _Consumer:
    """
    Has enough after each piece.
    """

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.form: Any = None

    def write(self, data: bytes) -> None:
        """Take a piece, and ask for a pause."""
        self.pieces.append(data)
        self.form.pauseProducing()


class FormTests(SynchronousTestCase):
    """
    The body of a request, piece by piece.
    """

    def produce(self, file: Any, size: int) -> tuple[Form, _Consumer, Deferred[None]]:
        """Start a form."""
        consumer = _Consumer()
        form = consumer.form = Form({}, "file", "a.pcap", "a/b", file, size)
        return form, consumer, form.startProducing(cast(Any, consumer))

    def test_pauses(self) -> None:
        """
        Nothing is written that was not asked for, and in the end everything.
        """
        content = bytes(range(256)) * 4000
        form, consumer, produced = self.produce(io.BytesIO(content), len(content))
        while not produced.called:
            self.assertFalse(form.complete)
            before = len(consumer.pieces)
            form.resumeProducing()
            self.assertLessEqual(len(consumer.pieces), before + 1)
        self.assertTrue(form.complete)
        self.assertGreater(len(consumer.pieces), 5)
        self.assertEqual(len(b"".join(consumer.pieces)), form.length)
        self.assertIn(content, b"".join(consumer.pieces))

    def test_stopped(self) -> None:
        """
        A form that is stopped, however often, writes no more and says nothing.
        """
        form, consumer, produced = self.produce(io.BytesIO(b"abc"), 3)
        form.stopProducing()
        form.stopProducing()
        form.resumeProducing()
        self.assertEqual(len(consumer.pieces), 1)
        self.assertNoResult(produced)
        self.assertFalse(form.complete)

    def test_unreadable(self) -> None:
        """
        A file that cannot be read is a failure of the form.
        """
        with open("/proc/self/mem", "rb") as file:  # Nothing is at its beginning.
            form, _consumer, produced = self.produce(file, 3)
            form.resumeProducing()
            self.failureResultOf(produced, OSError)
            form.resumeProducing()
        self.assertFalse(form.complete)


class LossTests(MemoryTests):
    """
    Uploads that do not come to their end, wherever they are.
    """

    def stages(self, **settings: Any) -> list[tuple[str, Deferred[str], Any]]:
        """
        An upload at each of its stages.
        """
        stages: list[tuple[str, Deferred[str], Any]] = []
        storing = self.makeSink(**settings).store(self.recording)
        stages.append(("connecting", storing, None))
        for stage, data in (
            ("waiting", b""),
            ("headers", b"HTTP/1.1 200 OK\r\nA: b"),
            ("body", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"),
        ):
            storing, transport = self.start(**settings)
            transport.protocol.dataReceived(data)
            stages.append((stage, storing, transport))
        return stages

    def test_timeout(self) -> None:
        """
        All of an upload has one limit of time, and then its connection is ended.
        """
        stages = self.stages(timeout=20)
        self.reactor.advance(19.9)
        for _stage, storing, _transport in stages:
            self.assertNoResult(storing)
        self.reactor.advance(0.1)
        for stage, storing, transport in stages:
            error = self.error(storing)
            self.assertTrue(error.transient, stage)
            self.assertEqual(str(error), "not done within 20 s")
            self.assertFalse(transport and transport.connected)

    def test_idle(self) -> None:
        """
        Without a limit, an upload ends when nothing moves any more.
        """
        [(_, connecting, _), *stages] = self.stages()
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.reactor.advance(IDLE - 1)
        for _stage, _storing, transport in stages:
            transport.protocol.dataReceived(b"H")
        self.reactor.advance(IDLE - 1)
        for _stage, storing, _transport in stages:
            self.assertNoResult(storing)
        self.reactor.advance(1)
        for stage, storing, transport in stages:
            self.assertTrue(self.error(storing).transient, stage)
            self.assertFalse(transport.connected)

    def test_status(self) -> None:
        """
        Where the status has come, it counts though the rest does not come.
        """
        for status, transient in ((401, False), (413, False), (503, True)):
            for act in ("time", "loss"):
                storing, transport = self.start(timeout=5)
                reply = f"HTTP/1.1 {status} X\r\nContent-Length: 9\r\n\r\n{{"
                transport.protocol.dataReceived(reply.encode())
                if act == "time":
                    self.reactor.advance(5)
                else:
                    transport.protocol.connectionLost(Failure(ConnectionLost()))
                error = self.error(storing)
                self.assertEqual(error.transient, transient)
                self.assertIn(str(status), str(error))

    def test_lost(self) -> None:
        """
        A connection that is lost is a failure for now.
        """
        for stage, storing, transport in self.stages()[1:]:
            transport.protocol.connectionLost(Failure(ConnectionLost()))
            self.assertTrue(
                errorOf(self, self.failureResultOf(storing)).transient, stage
            )

    def test_refused(self) -> None:
        """
        A connection that does not come about is a failure for now.
        """
        storing = self.makeSink().store(self.recording)
        factory = self.reactor.tcpClients[-1][2]
        reason = Failure(ConnectionRefusedError())
        factory.clientConnectionFailed(cast(Any, None), reason)
        self.reactor.advance(1)  # There may be a second address to try.
        self.assertTrue(self.error(storing).transient)

    def test_cancel(self) -> None:
        """
        Who cancels an upload ends its connection and gets no other failure.
        """
        for stage, storing, transport in self.stages(timeout=9):
            storing.cancel()
            self.failureResultOf(storing, CancelledError)
            self.reactor.advance(0)
            self.assertFalse(transport and transport.connected, stage)
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class TunnelTests(MemoryTests):
    """
    Asking a proxy for the way to a server with TLS.
    """

    def ask(self) -> tuple[Deferred[str], Transport]:
        """Start an upload by way of a proxy."""
        return self.start(
            scheme="https", host="::1", port=443, proxy="http://[::2]:3128"
        )

    def test_ask(self) -> None:
        """
        The proxy learns the server's name and port and nothing more, and then sees
        TLS.
        """
        _storing, transport = self.ask()
        asked = b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n"
        self.assertEqual(transport.value(), asked)
        transport.protocol.dataReceived(b"HTTP/1.1 200 Connection")
        self.assertEqual(transport.value(), asked)
        transport.protocol.dataReceived(b" established\r\nA: b\r\n\r\n")
        self.assertEqual(transport.value()[len(asked) :][:2], b"\x16\x03")

    def test_refused(self) -> None:
        """
        What a proxy refuses is a failure, for good or for now.
        """
        for reply, transient in (
            (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", False),
            (b"HTTP/1.0 403 Forbidden\r\n\r\n", False),
            (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", True),
            (b"SSH-2.0\r\n\r\n", False),
            (b"HTTP/1.1 200 OK\r\n" + b"a" * 20_000, False),
        ):
            storing, transport = self.ask()
            transport.protocol.dataReceived(reply)
            error = self.error(storing)
            self.assertEqual(error.transient, transient, reply[:40])
            self.assertIn("the proxy", str(error))
            self.assertFalse(transport.connected)

    def test_lost(self) -> None:
        """
        A proxy that hangs up, or says nothing, is a failure for now.
        """
        storing, transport = self.ask()
        transport.protocol.connectionLost(Failure(ConnectionLost()))
        self.assertTrue(self.error(storing).transient)
        storing, transport = self.ask()
        self.reactor.advance(CONNECT)
        error = self.error(storing)
        self.assertTrue(error.transient)
        self.assertEqual(str(error), "no connection within 30 s")
        self.assertFalse(transport.connected)


class SettingsTests(MemoryTests):
    """
    Settings that cannot be.
    """

    def wrong(self, key: str, **settings: Any) -> str:
        """The words about a wrong setting, which name it."""
        with self.assertRaises(StartError) as caught:
            self.makeSink(**settings)
        self.assertTrue(str(caught.exception).startswith(f"[cloudshark] {key}: "))
        return str(caught.exception)

    def test_cafile(self) -> None:
        """
        A file of authorities must be there and be one; without TLS it is not read.
        """
        path = self.mktemp()
        self.assertIn("No such file", self.wrong("cafile", scheme="https", cafile=path))
        with open(path, "w") as file:
            file.write("none")
        self.wrong("cafile", scheme="https", cafile=path)
        self.makeSink(cafile=path)

    def test_proxy(self) -> None:
        """
        A proxy is an address by HTTP and a port; what is none is not repeated.
        """
        for proxy in (
            "proxy:3128",
            "http://proxy",
            "https://proxy:3128",
            "http://user:secret@proxy:3128/",
            "http://proxy:3128/path",
            "http://proxy:99999",
            "http://[proxy:1",
            "http://:3128",
        ):
            self.assertNotIn("secret", self.wrong("proxy", proxy=proxy))

    def test_host(self) -> None:
        """
        A host is one that can be asked for.
        """
        for host in ("a..b", "https://cs", "with_line", "a:b", "x" * 64):
            self.wrong("host", host=host)

    def test_unverified(self) -> None:
        """
        Doing without certificates is warned about at the start, once, where there
        would be any.
        """
        events: list[Any] = []
        observer = cast(ILogObserver, events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.makeSink(verify=False)
        self.makeSink(scheme="https")
        self.assertEqual(events, [])
        sink = self.makeSink(scheme="https", verify=False)
        sink.store(self.recording)
        [text] = [eventAsText(event) for event in events]
        self.assertIn("verify = false", text)
