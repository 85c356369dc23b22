# See LICENSE for details.
"""
Tests for L{pcapdaemon.sinks.cloudshark} by way of a proxy, and of what an upload
costs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from pcapdaemon.sinks.cloudshark import CloudsharkSink
from pcapdaemon.test.fixtures import makeRecording
from pcapdaemon.test.servers import Server, freePort
from pcapdaemon.test.test_cloudshark_server import ServerTests, reactor


class _Onward(Protocol):
    """
    The proxy's connection to the server.
    """

    def __init__(self, proxy: _Proxy) -> None:
        self.proxy = proxy

    def connectionMade(self) -> None:
        self.proxy.established(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self.proxy.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.proxy.transport.loseConnection()


class _Proxy(LineReceiver):
    """
    A proxy that can do C{CONNECT}, and goes to a port of this machine whatever
    name is asked for.
    """

    transport: Any
    onward: Any = None

    def __init__(self, seen: list[bytes]) -> None:
        self.seen = seen

    def lineReceived(self, line: bytes) -> None:
        self.seen.append(line)
        if not line:
            self.setRawMode()
            self.transport.pauseProducing()
            port = int(self.seen[0].split()[1].rpartition(b":")[2])
            factory = ClientFactory.forProtocol(lambda: _Onward(self))
            factory.noisy = False
            reactor.connectTCP("127.0.0.1", port, factory)

    def established(self, onward: Any) -> None:
        """Say that the tunnel is there."""
        self.onward = onward
        self.transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self.transport.resumeProducing()

    def rawDataReceived(self, data: bytes) -> None:
        self.seen.append(data)
        self.onward.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.onward is not None:
            self.onward.loseConnection()


class ProxyTests(ServerTests):
    """
    Uploads by way of a proxy.
    """

    async def test_tunnel(self) -> None:
        """
        With TLS the proxy sees the server's name, and neither token nor capture.
        """
        seen: list[bytes] = []
        factory = Factory.forProtocol(lambda: _Proxy(seen))
        factory.noisy = False
        listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        proxy = f"http://127.0.0.1:{listening.getHost().port}"
        recording = self.makeRecording()
        url = await self.makeSink(proxy=proxy).store(recording)
        self.assertKept(url, recording)
        self.assertEqual(seen[0], b"CONNECT localhost:%d HTTP/1.1" % self.server.port)
        self.assertNotIn(b"/upload", b"".join(seen))
        await self.closed()

    async def test_plain(self) -> None:
        """
        Without TLS the proxy gets the request itself.
        """
        proxy = self.makeServer(tls=False)
        recording = self.makeRecording()
        sink = self.makeSink(scheme="http", host="cs.invalid", port=80, proxy=proxy.url)
        url = await sink.store(recording)
        [upload] = proxy.uploads
        self.assertEqual(url, f"http://cs.invalid/captures/{upload.id}")
        [request] = proxy.requests
        self.assertTrue(request.target.startswith("http://cs.invalid/api/v1/"))


class _Program(Server):
    """
    The server as a process of its own.
    """

    program = sys.executable

    def start(self) -> Deferred[None]:
        """Start the server."""
        self.port = freePort()
        return self._launch()

    def commandLine(self) -> Sequence[str]:
        command = "-m pcapdaemon.test.cloudshark --token x --directory . --port"
        return [*command.split(), str(self.port)]


class MemoryTests(TestCase):
    """
    What an upload costs.
    """

    async def test_memory(self) -> None:
        """
        The memory of this process does not grow with a recording, nor with how
        many are uploaded.
        """
        server = _Program(self, reactor)
        recording = makeRecording(self)
        piece = os.urandom(1 << 20)
        with open(f"/proc/self/fd/{recording._file.fileno()}", "wb") as file:  # type: ignore[union-attr]
            for _ in range(100):
                file.write(piece)
        recording = attrs.evolve(recording, size=100 << 20)
        await server.start()
        sink = CloudsharkSink(
            reactor,
            host="localhost",
            port=server.port,
            token="x",
            cafile=f"{server.directory}/ca.pem",
        )
        sink.startService()
        Path("/proc/self/clear_refs").write_text("5")
        before = self.peak()
        await gatherResults([sink.store(recording) for _ in range(2)])
        self.assertLess(self.peak() - before, 16 << 10)
        kept = list(Path(server.directory).glob("*.pcap"))
        self.assertEqual([path.stat().st_size for path in kept], [100 << 20] * 2)

    def peak(self) -> int:
        """The most KiB that this process has held."""
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0])
