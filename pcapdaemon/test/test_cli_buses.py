# See LICENSE for details.
"""
The command line at real buses that go away, change their mind, or carry what is
somebody else's.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from pcapdaemon.cli import bus_kafka
from pcapdaemon.cli.address import parse
from pcapdaemon.cli.bus import Access, BusError, Note, Source, makeSender, makeSource
from pcapdaemon.cli.download import Downloads, downloadAll
from pcapdaemon.cli.tracker import Capture
from pcapdaemon.test.process import PATIENCE
from pcapdaemon.test.servers import RedisServer, freePort, missing
from pcapdaemon.test.servers_kafka import KafkaServer, missingTansu
from pcapdaemon.test.servers_moto import MotoServer, missingMoto

SECRET = "password-of-tests"


def event(id: str, requestId: str = "r") -> dict[str, Any]:
    """
    Some event.
    """
    return {"event": "armed", "node": "web1", "id": id, "request_id": requestId}


class BusTestCase(TestCase):
    """
    Tests of one source, which the test reads as a command does.
    """

    def setUp(self) -> None:
        self.inbox: queue.Queue[Any] = queue.Queue()

    def source(self, url: str, access: Access | None = None) -> Source:
        """
        A source that is closed with the test.
        """
        source = makeSource(parse(url), access or Access(), self.inbox)
        return source

    def open(self, source: Source, requestId: str = "", progress: bool = True) -> None:
        """
        Begin to read it.
        """
        source.open(requestId, progress)
        self.addCleanup(source.close)

    def next(self) -> Any:
        """
        Wait for what comes next.
        """
        return self.inbox.get(timeout=PATIENCE)

    def note(self, text: str) -> None:
        """
        Wait for a sentence; events that come before it are an error.
        """
        found = self.next()
        self.assertIsInstance(found, Note)
        self.assertIn(text, found.text)
        self.assertNotIn(SECRET, found.text)

    def fails(self, f: Callable[..., Any], *arguments: Any) -> str:
        """
        See that something does not work.

        @return: What is said of it, without secrets.
        """
        text = str(self.assertRaises(BusError, f, *arguments))
        self.assertNotIn(SECRET, text)
        self.assertEqual(len(text.splitlines()), 1)
        return text


class RedisTests(BusTestCase):
    """
    Redis.
    """

    skip = missing("redis-server")

    def url(self, server: RedisServer, password: str = SECRET) -> str:
        """
        A channel.
        """
        return f"redis://:{password}@127.0.0.1:{server.port}/told"

    async def test_restart(self) -> None:
        """
        A server that goes away and comes back is subscribed to again, and that
        events may be missing is said.
        """
        server = RedisServer(self, reactor)
        await server.start(password=SECRET)
        self.open(self.source(self.url(server)))
        for data in b"no event", json.dumps(event("a")).encode():
            server.publish("told", data)
        self.assertEqual(self.next(), event("a"))
        await server.restart()
        self.note("events may be missing")
        self.note("subscribed again")
        sender = makeSender(parse(self.url(server)), Access())
        self.assertEqual(sender.publish(json.dumps(event("b")).encode()).heard, 1)
        self.assertEqual(self.next(), event("b"))

    async def test_refused(self) -> None:
        """
        A wrong password, or none, is said to be one.
        """
        server = RedisServer(self, reactor)
        await server.start(password=SECRET)
        wrong = self.source(self.url(server, SECRET + "x"))
        self.assertIn("WRONGPASS", self.fails(wrong.open, "", True))
        none = self.source(f"redis://127.0.0.1:{server.port}/told")
        self.assertIn("NOAUTH", self.fails(none.open, "", True))

    async def test_tls(self) -> None:
        """
        With TLS the server must be one that a trusted authority vouches for.
        """
        server, authority = RedisServer(self, reactor), trustme.CA()
        files = {
            name: Path(server.directory, f"{name}.pem")
            for name in ("own", "trusted", "stranger")
        }
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path(str(files["own"]))
        authority.cert_pem.write_to_path(str(files["trusted"]))
        trustme.CA().cert_pem.write_to_path(str(files["stranger"]))
        port = freePort()
        options = (
            f"--tls-port {port} --tls-cert-file own.pem --tls-key-file own.pem "
            "--tls-ca-cert-file trusted.pem --tls-auth-clients no"
        )
        await server.start(args=options.split())
        url = f"rediss://127.0.0.1:{port}/told"
        self.open(self.source(url, Access(cafile=str(files["trusted"]))))
        server.publish("told", json.dumps(event("a")).encode())
        self.assertEqual(self.next(), event("a"))
        stranger = self.source(url, Access(cafile=str(files["stranger"])))
        self.assertIn("certificate", self.fails(stranger.open, "", True))
        unreadable = self.source(url, Access(cafile=str(files["own"]) + "x"))
        self.assertIn("own.pemx", self.fails(unreadable.open, "", True))


class KafkaTests(BusTestCase):
    """
    Kafka.
    """

    skip = missingTansu()

    async def test_topics(self) -> None:
        """
        Only what is new in a topic is read; one that is not there yet is read from
        its beginning.
        """
        server = KafkaServer(self, reactor)
        await server.start()
        url = f"kafka://127.0.0.1:{server.port}"
        server.create("old")
        server.publish("old", json.dumps(event("before")).encode())
        self.open(self.source(f"{url}/old"))
        sender = makeSender(parse(f"{url}/old"), Access())
        sender.publish(json.dumps(event("a")).encode())
        self.assertEqual(self.next(), event("a"))
        self.open(self.source(f"{url}/new"))
        self.note("no such topic")
        server.create("new")
        server.publish("new", json.dumps(event("b")).encode())
        self.assertEqual(self.next(), event("b"))
        self.note("reading again")

    def test_away(self) -> None:
        """
        Without a broker it is not waited for ever, and why is said.
        """
        self.patch(bus_kafka, "PATIENCE", 0.5)
        source = self.source(f"kafka://u:{SECRET}@127.0.0.1:{freePort()}/t")
        self.assertIn("/t: ", self.fails(source.open, "", True))


class AwsTests(BusTestCase):
    """
    SQS and S3.
    """

    skip = missingMoto()

    async def start(self) -> MotoServer:
        """
        Start the services, with credentials for them in the environment.
        """
        for name in "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY":
            self.patchEnvironment(name, SECRET)
        server = MotoServer(self, reactor)
        await server.start()
        return server

    async def test_download(self) -> None:
        """
        A file in S3 is had from where C{stored} says that it is.
        """
        server = await self.start()
        client = server.client("s3")
        self.addCleanup(client.close)
        client.create_bucket(Bucket="captures")
        client.put_object(Bucket="captures", Key="my pcaps/a.pcap", Body=b"data")
        digest = hashlib.sha256(b"data").hexdigest()
        directory = str(self.mktemp())
        downloads = Downloads(directory, [], Access())
        for path, complaint in (
            ("my%20pcaps/a.pcap", ""),
            ("my%20pcaps/b.pcap", "NoSuchKey"),
        ):
            capture = Capture("web1", "a", packets=1, bytes=4, sha256=digest)
            capture.state, capture.filename = "completed", "web1.pcap"
            capture.places["s3"] = f"{server.url}/captures/{path}"
            paths, complaints = downloadAll([capture], downloads)
            if complaint:
                self.assertIn(complaint, complaints[0])
                self.assertNotIn(SECRET, complaints[0])
            else:
                self.assertEqual(Path(*paths).read_bytes(), b"data")

    async def test_shared(self) -> None:
        """
        Of a queue, what belongs to the request is taken, and all else stays there;
        who only watches takes nothing.
        """
        server = await self.start()
        client = server.client("sqs")
        self.addCleanup(client.close)
        url = client.create_queue(QueueName="told")["QueueUrl"]
        for each in event("a"), event("b", "other"), event("c"):
            client.send_message(QueueUrl=url, MessageBody=json.dumps(each))
        watching = self.source(f"sqs+{url}")
        self.open(watching)
        found = [self.next()["id"] for _ in range(3)]
        self.assertEqual(sorted(found), ["a", "b", "c"])
        watching.close()
        client.purge_queue(QueueUrl=url)
        for each in event("a"), event("b", "other"), event("c"):
            client.send_message(QueueUrl=url, MessageBody=json.dumps(each))
        source = self.source(f"sqs+{url}")
        self.open(source, "r")
        found = []
        # The other one comes again, as it does for everybody.
        while not {"a", "c"} <= set(found):
            found.append(self.next()["id"])
        while found.count("b") < 2:
            found.append(self.next()["id"])
        source.close()
        self.assertEqual((found.count("a"), found.count("c")), (1, 1))
        absent = self.source(f"sqs+{url}x")
        self.assertIn("NonExistentQueue", self.fails(absent.open, "", True))

    def patchEnvironment(self, name: str, value: str) -> None:
        """
        Set a variable for this test.
        """
        old = os.environ.get(name)
        os.environ[name] = value
        self.addCleanup(
            lambda: (
                os.environ.pop(name) if old is None else os.environ.update({name: old})
            )
        )


class HttpTests(BusTestCase):
    """
    A server whose stream breaks off: the daemon's own does so only when it ends.
    """

    def serve(self, *streams: bytes) -> None:
        """
        Serve streams, one for each time that it is asked.
        """
        left = list(streams)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append((self.path, self.headers["Last-Event-ID"]))
                if not left:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                self.wfile.write(left.pop(0))

            def log_message(self, format: str, *args: object) -> None:
                pass

        asked: list[tuple[str, str | None]] = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self.port = server.server_port
        self.asked = asked

        def end() -> Deferred[None]:
            server.shutdown()
            server.server_close()
            return deferToThread(thread.join)

        self.addCleanup(end)

    def test_resumed(self) -> None:
        """
        It is gone on where it broke off, and a gap is told.
        """

        def told(id: str) -> bytes:
            data = json.dumps(event(id)).encode()
            return b"id: x-%s\nevent: armed\ndata: %s\n\n" % (id.encode(), data)

        gap = b'event: gap\ndata: {"missed": 3}\n\n'
        half = b"id: x-9\nevent: armed\ndata: {"
        self.serve(b": hello\n\n" + told("1") + half, gap + told("2"))
        self.open(self.source(f"http://127.0.0.1:{self.port}"), "a&b", False)
        self.assertEqual(self.next(), event("1"))
        self.note("trying to come back")
        self.note("dropped events")
        self.assertEqual(self.next(), event("2"))
        path = "/events?request_id=a%26b&progress=0"
        self.assertEqual(self.asked[:2], [(path, None), (path, "x-1")])

    def test_none(self) -> None:
        """
        A server without events, or that does not let us see them, is an error.
        """
        self.serve()
        source = self.source(f"http://127.0.0.1:{self.port}", Access(token=SECRET))
        self.assertIn("404", self.fails(source.open, "", True))
