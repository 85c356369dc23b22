# See LICENSE for details.
"""
Those who get events from outside systems, for tests: each in a thread, or asked
by the test, so that a test that blocks still has them.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import TestCase

import hiredis
from kafka import KafkaConsumer, TopicPartition

from pcapdaemon.test.process import PATIENCE
from pcapdaemon.test.servers import freePort, packed

Event = dict[str, Any]


def wait(holds: Callable[[], object], what: Callable[[], str]) -> None:
    """
    Wait, without the reactor, until something holds.

    @param what: Says what is waited for, and what is there instead.
    """
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"not within {PATIENCE} s: {what()}")
        time.sleep(0.01)


class RedisSubscriber:
    """
    Subscribed to one channel when it has been made, as long as the server lives.

    @ivar events: What came.
    """

    def __init__(self, case: TestCase, port: int, channel: str, password: str = ""):
        self.events: list[Event] = []
        self._link = socket.create_connection(("127.0.0.1", port), PATIENCE)
        case.addCleanup(self.close)
        self._reader = hiredis.Reader()
        if password:
            self._ask("AUTH", password)
        self._ask("SUBSCRIBE", channel)
        self._link.settimeout(None)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _ask(self, *words: str) -> None:
        self._link.sendall(packed(*words))
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._link.recv(65536))
        if isinstance(reply, hiredis.ReplyError):
            raise reply

    def _read(self) -> None:
        try:
            while data := self._link.recv(65536):
                self._reader.feed(data)
                while (message := self._reader.gets()) is not False:
                    self.events.append(json.loads(message[2]))
        except OSError:
            pass

    def close(self) -> None:
        """
        Leave.
        """
        try:
            self._link.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._thread.join(PATIENCE)
        self._link.close()


class KafkaSubscriber:
    """
    Reads a whole topic from its beginning.

    @ivar events: What came.
    @ivar places: By capture, the partitions in which its events are.
    """

    def __init__(self, case: TestCase, port: int, topic: str, partitions: int) -> None:
        self.restart(case, port, topic, partitions)
        self.events: list[Event] = []
        self.places: dict[str, set[int]] = {}

    def restart(self, case: TestCase, port: int, topic: str, partitions: int) -> None:
        """
        Begin at the beginning of another topic, or of another broker.
        """
        self._consumer = KafkaConsumer(
            bootstrap_servers=[f"127.0.0.1:{port}"],
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=50,
        )
        case.addCleanup(self._consumer.close)
        self._consumer.assign([TopicPartition(topic, n) for n in range(partitions)])

    def poll(self) -> None:
        """
        Take what is there now.
        """
        for place, records in self._consumer.poll(timeout_ms=100).items():
            for record in records:
                event = json.loads(record.value)
                if record.key.decode() != event["id"]:
                    raise AssertionError(f"key {record.key} of {event}")
                self.places.setdefault(event["id"], set()).add(place.partition)
                self.events.append(event)


class SqsSubscriber:
    """
    Takes messages out of a queue.

    @ivar events: What came.
    """

    def __init__(self, client: Any, queue: str) -> None:
        self.events: list[Event] = []
        self.client, self.queue = client, queue

    def poll(self) -> None:
        """
        Take what is there now.
        """
        while messages := self.client.receive_message(
            QueueUrl=self.queue, MaxNumberOfMessages=10
        ).get("Messages"):
            self.events += [json.loads(message["Body"]) for message in messages]
            entries = [
                {"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]}
                for n, message in enumerate(messages)
            ]
            self.client.delete_message_batch(QueueUrl=self.queue, Entries=entries)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hook: Hook

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", port), _Request)
        self.links: set[socket.socket] = set()
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.links.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.links.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error."""


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.hook.take(self.path, headers, body)
        if answer is None:
            self.close_connection = True
            return
        status, extra = answer
        self.send_response(status)
        for name, value in extra.items():
            self.send_header(name, value)
        body = self.server.hook.body if status == 200 else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.server.hook.cut += 1
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """There is no log."""


class Hook:
    """
    A web server that events are posted to.

    @ivar port: Where it listens, or will.
    @ivar events: What it took.
    @ivar requests: All that came: path, headers, body.
    @ivar answers: What to answer instead of 204, first one first: a status and
        headers, or nothing at all.
    @ivar pause: Seconds that each answer takes.
    @ivar body: What every 200 has for a body.
    @ivar cut: How many such bodies the client did not take.
    """

    def __init__(self, case: TestCase) -> None:
        case.addCleanup(self.kill)
        self.port = freePort()
        self.events: list[Event] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: deque[tuple[int, dict[str, str]] | None] = deque()
        self.pause = 0.0
        self.body = b""
        self.cut = 0
        self._server: _Server | None = None

    def start(self, context: ssl.SSLContext | None = None) -> None:
        """
        Listen.

        @param context: For TLS.
        """
        self._server = _Server(self.port, context)
        self._server.hook = self
        # The thread is in the network that this one is in.
        threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        ).start()

    def take(
        self, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str]] | None:
        """
        Take one request.

        @return: What to answer.
        """
        time.sleep(self.pause)
        self.requests.append((path, headers, body))
        answer = self.answers.popleft() if self.answers else (204, {})
        if answer is not None and answer[0] == 204:
            self.events.append(json.loads(body))
        return answer

    def kill(self) -> None:
        """
        End it, and all connections.
        """
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            for link in list(server.links):
                try:
                    link.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
