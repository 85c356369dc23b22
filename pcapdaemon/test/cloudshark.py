# See LICENSE for details.
"""
A stand-in for CloudShark, as far as uploads go, that can be told to misbehave.

In a test it lives in the test's reactor::

    server = CloudShark(reactor, self.mktemp())
    server.start()
    self.addCleanup(server.stop)

By itself, until it is killed, with one line of JSON to say where it is::

    python -m pcapdaemon.test.cloudshark --port 0 --directory DIRECTORY
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import zlib
from collections import deque
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import attrs
import trustme
from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    PushMultipartParser,
    parse_options_header,
)

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.ssl import PrivateCertificate
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

#: The token, if not told otherwise: one that must be quoted in a URL.
TOKEN = "f2c6/9b+1e 4d%57"


@attrs.frozen
class Behaviour:
    """
    How a request is answered. As it stands, an upload is kept.

    @ivar status: Of the reply; with 200, the request is looked at, and without
        C{body} that decides.
    @ivar headers: Further ones.
    @ivar body: Of the reply; L{None} for what CloudShark would say.
    @ivar early: Whether the reply comes after the headers of the request, and
        the connection is closed then.
    @ivar deaf: Whether nothing is read after the headers of the request.
    @ivar silent: Whether there is no reply.
    @ivar reset: After how many bytes of the request's body to reset the
        connection; -1 for never.
    @ivar cut: How many bytes of the reply's body to send; -1 for all.
    @ivar hang: Whether the connection stays open after that.
    """

    status: int = 200
    headers: dict[str, str] = attrs.Factory(dict)
    body: bytes | None = None
    early: bool = False
    deaf: bool = False
    silent: bool = False
    reset: int = -1
    cut: int = -1
    hang: bool = False


@cache
def bomb(size: int = 300_000_000) -> bytes:
    """
    @return: JSON that CloudShark could have sent, packed by gzip; it takes
        C{size} bytes, spaces mostly.
    """
    packer = zlib.compressobj(wbits=31)
    spaces = b" " * 1_000_000
    pieces = [packer.compress(b'{"filename": "a", "id": "b"')]
    pieces += [packer.compress(spaces) for _ in range(size // len(spaces))]
    return b"".join([*pieces, packer.compress(b"}"), packer.flush()])


@attrs.define(eq=False)
class Request:
    """
    What came.

    @ivar target: As in the first line.
    @ivar headers: By lower-case names.
    @ivar server: What the client called the server when it asked for TLS.
    @ivar received: Bytes of the body so far.
    @ivar fields: The texts of the form.
    @ivar file: The headers of the file's part; empty if there is none.
    @ivar id: What the upload has become, or empty.
    """

    method: str
    target: str
    headers: dict[str, str]
    server: bytes | None
    received: int = 0
    fields: dict[str, bytes] = attrs.Factory(dict)
    file: dict[str, str] = attrs.Factory(dict)
    id: str = ""

    @property
    def whole(self) -> bool:
        """Whether all of it has come."""
        return self.received >= int(self.headers.get("content-length", "0"))


@attrs.frozen
class Upload:
    """
    What was kept.

    @ivar path: Where the file is.
    """

    id: str
    filename: str
    tags: str
    contentType: str
    path: Path


class _Connection(LineReceiver):
    """
    One request and its reply.
    """

    transport: Any
    request: Request | None = None
    behaviour = Behaviour()
    _answered = False
    _part: Any = None
    _parser: Any = None
    _output: BinaryIO | None = None

    def __init__(self, server: CloudShark) -> None:
        self.server = server
        self._lines: list[str] = []
        self._path = server.directory / f".{uuid4().hex}.part"

    def connectionMade(self) -> None:
        self.server.connections[self] = Deferred()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._output is not None:
            self._output.close()
            self._path.unlink(missing_ok=True)
        self.server.connections.pop(self).callback(None)

    def dataReceived(self, data: bytes) -> None:
        if self.request is None and not self._lines and data[0] == 22:
            # TLS where there is none. Other servers say so, too.
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            self.transport.loseConnection()
        else:
            super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        if line:
            self._lines.append(line.decode("latin-1"))
            return
        method, target, _version = self._lines[0].split(" ")
        pairs = (each.split(":", 1) for each in self._lines[1:])
        headers = {name.lower(): value.strip() for name, value in pairs}
        tls = self.server.scheme == "https"
        name = self.transport.getHandle().get_servername() if tls else None
        self.request = Request(method, target, headers, name)
        self.server.requests.append(self.request)
        behaviours = self.server.behaviours
        self.behaviour = behaviours.popleft() if behaviours else Behaviour()
        kind, options = parse_options_header(headers.get("content-type", ""))
        if kind == "multipart/form-data":
            self._parser = PushMultipartParser(options["boundary"], strict=True)
        self.setRawMode()
        if self.behaviour.deaf:
            self.transport.pauseProducing()
        elif self.behaviour.early or self.request.whole:
            self._reply()

    def rawDataReceived(self, data: bytes) -> None:
        assert self.request is not None
        if self._answered:
            return
        self.request.received += len(data)
        if 0 <= self.behaviour.reset <= self.request.received:
            self._answered = True
            self.transport.abortConnection()
            return
        try:
            for event in self._parser.parse(data) if self._parser else ():
                self._parsed(event)
            if self.request.whole and self._parser:
                self._parser.close()
        except MultipartError:
            self._parser = None
        if self.request.whole:
            self._reply()

    def _parsed(self, event: Any) -> None:
        """Take the beginning, a piece or the end of a part."""
        assert self.request is not None
        if event is None:
            self._part = None  # The end of one.
        elif self._part is None:
            self._part = event
            if event.name == "file" and self._output is None:
                self._output = self._path.open("wb")
                self.request.file = dict(event.headerlist)
                self.request.file["filename"] = event.filename
            else:
                self.request.fields[event.name] = b""
        elif self._part.name == "file" and self._output is not None:
            self._output.write(event)
        else:
            self.request.fields[self._part.name] += event

    def _reply(self) -> None:
        self._answered = True
        how = self.behaviour
        if how.silent:
            return
        status, says = self._keep() if how.status == 200 else (how.status, None)
        if how.body is not None:
            status = how.status
        elif says is None:
            says = {"status": status, "exceptions": [HTTPStatus(status).phrase]}
        body = json.dumps(says).encode() if how.body is None else how.body
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **how.headers,
        }
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items() if value]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        self.transport.write(head + (body if how.cut < 0 else body[: how.cut]))
        if not how.hang:
            self.transport.loseConnection()

    def _keep(self) -> tuple[int, Any]:
        """
        Do as CloudShark does with an upload.

        @return: The status, and what to say.
        """
        assert self.request is not None
        request = self.request
        match = re.fullmatch(r"/api/v1/([^/]*)/upload", urlsplit(request.target).path)
        if match is None:
            return 404, None
        if unquote(match[1]) != self.server.token:
            return 401, {"status": 401, "exceptions": ["Invalid API token"]}
        if request.method != "POST":
            return 405, None
        if self._parser is None or not self._parser.closed or self._output is None:
            return 400, {"status": 400, "exceptions": ["No file was uploaded"]}
        self._output.close()
        request.id = uuid4().hex[:12]
        upload = Upload(
            request.id,
            request.file["filename"],
            request.fields.get("additional_tags", b"").decode(),
            request.file.get("Content-Type", ""),
            self.server.directory / f"{request.id}.pcap",
        )
        self._path.rename(upload.path)
        self.server.keep(upload)
        return 200, {"filename": upload.filename, "id": upload.id}


class CloudShark:
    """
    A server with an authority of its own.

    @ivar directory: Has for each upload C{ID.pcap} and C{ID.json}.
    @ivar cafile: What clients are to trust.
    @ivar port: Where it listens, on the loopback interface, from L{start} on;
        the next time it is the same.
    @ivar behaviours: How the next requests are answered, each one once.
    @ivar requests: All that came, in order.
    @ivar uploads: All that is kept, in order.
    @ivar connections: Those that are open.
    """

    def __init__(
        self,
        reactor: Any,
        directory: str | Path,
        token: str = TOKEN,
        tls: bool = True,
        names: tuple[str, ...] = ("localhost", "127.0.0.1"),
        port: int = 0,
    ) -> None:
        """
        @param directory: Made if need be.
        @param names: What its certificate is for.
        """
        self.reactor = reactor
        self.directory = Path(directory).absolute()
        self.token = token
        self.port = port
        self.behaviours: deque[Behaviour] = deque()
        self.requests: list[Request] = []
        self.uploads: list[Upload] = []
        self.connections: dict[_Connection, Deferred[None]] = {}
        self._listening: Any = None
        self.directory.mkdir(parents=True, exist_ok=True)
        self.cafile = str(self.directory / "ca.pem")
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.cafile)
        leaf = authority.issue_cert(*names)
        self._certificate: Any = PrivateCertificate.loadPEM(
            leaf.private_key_and_cert_chain_pem.bytes()
        )
        self.scheme = "https" if tls else "http"

    @property
    def url(self) -> str:
        """Where it is, for clients."""
        return f"{self.scheme}://localhost:{self.port}"

    def start(self) -> None:
        """
        Listen.
        """
        factory = Factory.forProtocol(lambda: _Connection(self))
        factory.noisy = False
        if self.scheme == "https":
            self._listening = self.reactor.listenSSL(
                self.port, factory, self._certificate.options(), interface="127.0.0.1"
            )
        else:
            self._listening = self.reactor.listenTCP(
                self.port, factory, interface="127.0.0.1"
            )
        self.port = self._listening.getHost().port

    async def _stop(self) -> None:
        if self._listening is not None:
            await self._listening.stopListening()
            self._listening = None
        lost = list(self.connections.values())
        for connection in self.connections:
            connection.transport.abortConnection()
        await DeferredList(lost)

    def stop(self) -> Deferred[None]:
        """
        Refuse all connections, and reset those that are open.
        """
        return Deferred.fromCoroutine(self._stop())

    def behave(self, *behaviours: Behaviour) -> None:
        """Say how the next requests are answered."""
        self.behaviours.extend(behaviours)

    def keep(self, upload: Upload) -> None:
        """
        Take note of an upload.
        """
        self.uploads.append(upload)
        about = {**attrs.asdict(upload), "path": upload.path.name}
        upload.path.with_suffix(".json").write_text(json.dumps(about) + "\n")


def main() -> None:
    """
    Run one until it is killed.
    """
    from twisted.internet import reactor as installed

    reactor: Any = installed
    parser = argparse.ArgumentParser(description="A stand-in for CloudShark.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--token", default=TOKEN)
    parser.add_argument("--plain", action="store_true", help="HTTP without TLS")
    options = parser.parse_args()
    server = CloudShark(
        reactor, options.directory, options.token, not options.plain, port=options.port
    )
    server.start()
    where = {"url": server.url, "port": server.port, "cafile": server.cafile}
    sys.stdout.write(json.dumps(where) + "\n")
    sys.stdout.flush()
    reactor.run()


if __name__ == "__main__":
    main()
