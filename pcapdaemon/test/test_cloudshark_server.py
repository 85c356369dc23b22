# See LICENSE for details.
"""
Tests for L{pcapdaemon.sinks.cloudshark} over TLS, with a server that behaves as
it is told.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import trustme

from twisted.internet import reactor as installed
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from pcapdaemon.capture.recording import Recording
from pcapdaemon.interfaces import StoreError
from pcapdaemon.sinks.cloudshark import CloudsharkSink
from pcapdaemon.test.cloudshark import TOKEN, Behaviour, CloudShark, bomb
from pcapdaemon.test.fixtures import makeRecording
from pcapdaemon.test.servers import until
from pcapdaemon.test.test_cloudshark import errorOf, watchForToken

reactor: Any = installed

#: More than all buffers between here and a server that does not read.
MUCH = 20_000_000


class ServerTests(TestCase):
    """
    A server and sinks for it.
    """

    def setUp(self) -> None:
        watchForToken(self)
        self.server = self.makeServer()

    def makeServer(self, **settings: Any) -> CloudShark:
        """A server that listens."""
        server = CloudShark(reactor, self.mktemp(), **settings)
        server.start()
        self.addCleanup(server.stop)
        return server

    def makeSink(self, **settings: Any) -> CloudsharkSink:
        """A sink that runs and knows the server, unless told otherwise."""
        sink = CloudsharkSink(
            reactor,
            **{
                "host": "localhost",
                "port": self.server.port,
                "token": TOKEN,
                "cafile": self.server.cafile,
                **settings,
            },
        )
        sink.startService()
        self.addCleanup(sink.stopService)
        return sink

    def makeRecording(self, size: int = 1_000_000, id: str = "abc") -> Recording:
        """A recording of random bytes."""
        return makeRecording(self, id, os.urandom(size), tags="a,ü")

    def assertKept(self, url: str, recording: Recording, at: int = -1) -> None:
        """See that the server has a recording, at its address."""
        [upload] = [u for u in self.server.uploads if url.endswith(f"/{u.id}")]
        self.assertEqual(url, f"{self.server.url}/captures/{upload.id}")
        self.assertEqual(upload.filename, recording.filename)
        self.assertEqual(upload.tags, recording.plan.tags)
        self.assertEqual(upload.contentType, "application/vnd.tcpdump.pcap")
        with recording.open() as stream:
            self.assertTrue(upload.path.read_bytes() == stream.read())

    async def failing(self, *behaviours: Behaviour, **settings: Any) -> StoreError:
        """The error of one upload, after which its connection is gone."""
        self.server.behave(*behaviours)
        error = await self.error(self.makeSink(**settings), self.makeRecording())
        await self.closed()
        return error

    async def error(self, sink: CloudsharkSink, recording: Recording) -> StoreError:
        """The error of one upload."""
        failures: list[Failure] = []
        url = await sink.store(recording).addErrback(failures.append)
        self.assertEqual(len(failures), 1, url)
        return errorOf(self, failures[0])

    async def closed(self) -> None:
        """Wait until the server has no connections."""
        await until(reactor, lambda: not self.server.connections, "all closed")


class UploadTests(ServerTests):
    """
    Uploads that arrive.
    """

    async def test_arrives(self) -> None:
        """
        What the server has is the recording, byte by byte, with name and tags,
        and nothing is left open.
        """
        recording = self.makeRecording(3_000_001)
        sink = self.makeSink()
        await sink.store(recording)  # The reactor opens some at first use.
        await self.closed()
        before = len(os.listdir("/proc/self/fd"))
        self.assertKept(await sink.store(recording), recording)
        await self.closed()
        await until(
            reactor,
            lambda: len(os.listdir("/proc/self/fd")) <= before,
            "all descriptors closed",
        )

    async def test_plain(self) -> None:
        """
        The same goes without TLS.
        """
        self.server = self.makeServer(tls=False)
        recording = self.makeRecording()
        sink = self.makeSink(scheme="http")
        self.assertKept(await sink.store(recording), recording)

    async def test_several(self) -> None:
        """
        Uploads at the same time have nothing to do with each other.
        """
        sink = self.makeSink()
        self.server.behave(
            Behaviour(), Behaviour(reset=500_000), Behaviour(silent=True), Behaviour()
        )
        recordings = [self.makeRecording(id=f"r{n}") for n in range(8)]
        uploads = [sink.store(recording) for recording in recordings]
        over: list[Any] = []
        for upload in uploads:
            upload.addBoth(over.append)
        await until(reactor, lambda: len(over) == 7, "all but the silent one")
        [silent] = [upload for upload in uploads if not upload.called]
        silent.cancel()
        errors = [r.type for r in over if isinstance(r, Failure)]
        self.assertCountEqual(errors, [StoreError, CancelledError])
        names = {r.filename: r for r in recordings}
        urls = [r for r in over if isinstance(r, str)]
        self.assertEqual(len(set(urls)), 6)
        for url in urls:
            [name] = [u.filename for u in self.server.uploads if u.id in url]
            self.assertKept(url, names[name])

    async def test_again(self) -> None:
        """
        Each attempt sends all of the file.
        """
        sink, recording = self.makeSink(), self.makeRecording()
        self.server.behave(Behaviour(reset=500_000))
        await self.assertFailure(sink.store(recording), StoreError)
        self.assertKept(await sink.store(recording), recording)

    async def test_cancel(self) -> None:
        """
        Who cancels an upload resets its connection, wherever it is.
        """
        for behaviour in (
            Behaviour(deaf=True),
            Behaviour(silent=True),
            Behaviour(cut=3, hang=True),
        ):
            self.server.requests.clear()
            self.server.behave(behaviour)
            size = MUCH if behaviour.deaf else 1000
            storing = self.makeSink().store(self.makeRecording(size))
            await until(reactor, lambda: self.server.requests, "a request")
            [request] = self.server.requests
            if not behaviour.deaf:
                await until(reactor, partial(getattr, request, "whole"), "all of it")
            storing.cancel()
            await self.assertFailure(storing, CancelledError)
            if behaviour.deaf:
                # It would not notice.
                await self.server.stop()
                self.server.start()
            await self.closed()

    async def test_trust(self) -> None:
        """
        Any of several authorities in a file will do.
        """
        both = Path(self.mktemp())
        other = trustme.CA().cert_pem.bytes()
        both.write_bytes(other + Path(self.server.cafile).read_bytes())
        recording = self.makeRecording()
        sink = self.makeSink(cafile=str(both), host="127.0.0.1")
        url = await sink.store(recording)
        self.assertKept(url.replace("127.0.0.1", "localhost"), recording)

    async def test_unverified(self) -> None:
        """
        Without C{verify} any server will do.
        """
        self.server = self.makeServer(names=("other.example",))
        recording = self.makeRecording()
        sink = self.makeSink(cafile="", verify=False)
        self.assertKept(await sink.store(recording), recording)
        [request] = self.server.requests
        self.assertEqual(request.server, b"localhost")


class FailureTests(ServerTests):
    """
    Everything that a server, or what is in its place, can do.
    """

    async def test_transient(self) -> None:
        """
        What may be over later is transient.
        """
        for behaviour, text in (
            (Behaviour(reset=500_000), "lost"),
            (Behaviour(reset=1), "lost"),
            (Behaviour(cut=3), "closed"),
            (Behaviour(status=429), "answered 429: Too Many Requests"),
            (Behaviour(status=500), "answered 500: Internal Server Error"),
            (Behaviour(status=503, body=b"<html>"), "answered 503: no reason given"),
            (Behaviour(status=503, early=True), "answered 503: Service Unavailable"),
        ):
            error = await self.failing(behaviour)
            self.assertTrue(error.transient, behaviour)
            self.assertIn(text, str(error))
        self.assertEqual(self.server.uploads[1:], [])

    async def test_delay(self) -> None:
        """
        The server is asked when to come again.
        """
        behaviour = Behaviour(status=429, headers={"Retry-After": "17"})
        self.assertEqual((await self.failing(behaviour)).delay, 17)

    async def test_permanent(self) -> None:
        """
        What will not be over later is permanent.
        """
        away = {"Location": f"https://localhost/api/v1/{TOKEN}/upload"}
        packed = {"Content-Encoding": "gzip"}
        for behaviour, text in (
            (Behaviour(status=401), "answered 401: Unauthorized"),
            (Behaviour(status=413), "answered 413: Request Entity Too Large"),
            (Behaviour(status=302, headers=away), "answered 302, a redirect"),
            (Behaviour(status=307, headers=away, early=True), "answered 307, a redir"),
            (Behaviour(headers=packed, body=bomb()), "the reply is too long"),
            (Behaviour(headers=packed, body=bomb(9_000_000)), "answered 200, but not"),
            (Behaviour(headers=packed, body=b"none"), "answered 200, but not"),
            (Behaviour(body=b"<html>"), "answered 200, but not"),
        ):
            error = await self.failing(behaviour)
            self.assertFalse(error.transient, behaviour)
            self.assertIn(text, str(error))

    async def test_token(self) -> None:
        """
        A wrong token is said to be one, without repeating it.
        """
        error = await self.failing(token="Wr/ong")
        self.assertFalse(error.transient)
        self.assertEqual(str(error), "answered 401: Invalid API token")
        self.assertEqual(self.server.uploads, [])

    async def test_early(self) -> None:
        """
        A server that answers in the middle of an upload, and hangs up, is heard,
        also when its words are cut off, and not taken to have stored anything.
        """
        recording = self.makeRecording(MUCH)
        for behaviour, text in (
            (Behaviour(status=413, early=True), "answered 413: Request Entity"),
            (Behaviour(status=413, early=True, cut=5), "answered 413: no reason"),
            (Behaviour(status=413, early=True, hang=True), "answered 413: Request"),
            (Behaviour(early=True, body=b'{"id": "a"}'), "answered 200 before"),
        ):
            self.server.behave(behaviour)
            error = await self.error(self.makeSink(), recording)
            self.assertFalse(error.transient)
            self.assertIn(text, str(error))

    async def test_timeout(self) -> None:
        """
        A server that takes nothing, says nothing, or stops in the middle of its
        reply, is given up after the time set.
        """
        recording = self.makeRecording(MUCH)
        for behaviour in (
            Behaviour(deaf=True),
            Behaviour(silent=True),
            Behaviour(cut=3, hang=True),
        ):
            self.server.behave(behaviour)
            error = await self.error(self.makeSink(timeout=0.5), recording)
            self.assertTrue(error.transient)
            self.assertEqual(str(error), "not done within 0.5 s")

    async def test_refused(self) -> None:
        """
        A server that is not there is a transient failure, until it is there.
        """
        await self.server.stop()
        error = await self.failing()
        self.assertTrue(error.transient)
        self.assertIn("refused", str(error))
        self.server.start()
        recording = self.makeRecording()
        self.assertKept(await self.makeSink().store(recording), recording)

    async def test_unknown(self) -> None:
        """
        A host that has no address now may have one later.
        """
        error = await self.failing(host="nowhere.invalid")
        self.assertTrue(error.transient)
        self.assertIn("nowhere.invalid", str(error))

    async def test_authority(self) -> None:
        """
        A server whose authority is not trusted gets nothing, for good.
        """
        other = self.makeServer()
        for cafile in (other.cafile, ""):
            error = await self.failing(cafile=cafile)
            self.assertFalse(error.transient)
            self.assertIn("certificate verify failed", str(error))
        self.assertEqual(self.server.requests, [])

    async def test_name(self) -> None:
        """
        A server whose certificate is for another name gets nothing, for good.
        """
        self.server = self.makeServer(names=("other.example",))
        for host in ("localhost", "127.0.0.1"):
            error = await self.failing(host=host)
            self.assertFalse(error.transient)
            self.assertIn(f"not one of {host}", str(error))
        self.assertEqual(self.server.requests, [])

    async def test_mixedUp(self) -> None:
        """
        A server without TLS gets nothing when there should be TLS.
        """
        self.server = self.makeServer(tls=False)
        error = await self.failing()
        self.assertIn("TLS", str(error))
        self.assertEqual(self.server.requests, [])
