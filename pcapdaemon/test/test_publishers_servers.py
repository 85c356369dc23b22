# See LICENSE for details.
"""
Tests for each of L{pcapdaemon.publishers} against what it publishes to.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from typing import Any

import trustme
from kafka.errors import MessageSizeTooLargeError
from kafka.future import Future

from twisted.internet import reactor
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from pcapdaemon.events import Events
from pcapdaemon.interfaces import StartError
from pcapdaemon.publishers import kafka
from pcapdaemon.publishers._publisher import Item, Publisher
from pcapdaemon.publishers.kafka import KafkaPublisher
from pcapdaemon.publishers.redis import RedisPublisher
from pcapdaemon.publishers.sqs import SqsPublisher
from pcapdaemon.publishers.webhook import WebhookPublisher, signature, signingKey
from pcapdaemon.test.servers import RedisServer, freePort, missing, until
from pcapdaemon.test.servers_kafka import KafkaServer, Way, missingTansu
from pcapdaemon.test.servers_moto import MotoServer, missingMoto
from pcapdaemon.test.subscribers import (
    Hook,
    KafkaSubscriber,
    RedisSubscriber,
    SqsSubscriber,
)
from pcapdaemon.test.test_redis import ERROR, EVERYTHING, WARN, collectLog

KINDS = ("accepted", "armed", "completed", "stored")


class _Case(TestCase):
    """
    Tests with a publisher and somebody to publish to.
    """

    def setUp(self) -> None:
        self.events = Events("node-a", lambda: 0)
        self.logged = collectLog(self)

    def start(self, publisher: Publisher) -> Publisher:
        """
        Start a publisher; the test ends it.
        """
        publisher.flush = 0.2
        publisher.startService()
        self.addCleanup(lambda: publisher.stopService() if publisher.running else None)
        return publisher

    def emit(self, count: int, first: int = 0) -> list[tuple[str, str]]:
        """
        Have so many captures, all at once.

        @return: Identifier and name of each event.
        """
        told = [(f"c{n}", kind) for kind in KINDS for n in range(first, first + count)]
        for id, kind in told:
            self.events.emit(kind, id, {})
        return told

    async def settled(self, publisher: Publisher) -> None:
        """
        Wait until nothing waits any more.
        """
        await until(reactor, lambda: not publisher.waiting, "all published")

    async def said(self, text: str) -> str:
        """
        Wait for a line in the log.
        """

        def found() -> list[str]:
            return [line for line in self.logged(WARN, ERROR) if text in line]

        await until(reactor, found, f"{text} in the log")
        return found()[0]


def names(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """
    Identifier and name of each event.
    """
    return [(event["id"], event["event"]) for event in events]


class RedisTests(_Case):
    """
    A Redis server.
    """

    skip = missing("redis-server")

    async def test_silent(self) -> None:
        """
        A server that takes what is sent and does not answer is given up; all that
        it may not have got is sent to the next one.
        """
        server = RedisServer(self, reactor)
        await server.start()
        publisher = self.start(
            RedisPublisher(reactor, self.events, "events", port=server.port, ping=0.2)
        )
        await until(reactor, lambda: publisher.connected, "connected")
        server.pause()
        told = self.emit(10)
        await self.said("no answer to a ping")
        self.assertFalse(publisher.connected)
        await server.kill()
        await self.said("refused")
        self.assertEqual(publisher.waiting, 40)
        await server.start(server.port)
        subscriber = RedisSubscriber(self, server.port, "events")
        await self.settled(publisher)
        self.emit(1, 10)
        await self.settled(publisher)
        await until(reactor, lambda: subscriber.events, "the last")
        self.assertEqual(publisher.published, len(told) + 4)

    async def test_rights(self) -> None:
        """
        Without the password, or without the right, it is an error, until that is
        mended. The password is in no line.
        """
        server = RedisServer(self, reactor)
        await server.start(password="the password")
        common: dict[str, Any] = {"port": server.port, "username": "me"}
        wrong = RedisPublisher(reactor, self.events, "e", password="secret!", **common)
        self.start(wrong)
        await self.said("WRONGPASS")
        server.command(
            "ACL", "SETUSER", "me", "on", ">secret!", "+ping", "resetchannels"
        )
        self.emit(1)
        await self.said("NOPERM")
        server.command("ACL", "SETUSER", "me", "+publish", "&e")
        await self.settled(wrong)
        self.assertNotIn("secret!", str(self.logged(*EVERYTHING)))


class KafkaTests(_Case):
    """
    A Kafka broker.
    """

    skip = missingTansu()

    def setUp(self) -> None:
        super().setUp()
        # Where nobody answers that is soon clear.
        self.patch(kafka, "ANSWER", 1.0)

    def publisher(self, port: int, **settings: Any) -> Publisher:
        """
        Start a publisher to a topic.
        """
        servers = [f"127.0.0.1:{port}"]
        return self.start(
            KafkaPublisher(
                reactor,
                self.events,
                "events",
                deferToThread,
                servers=servers,
                **settings,
            )
        )

    async def test_partitions(self) -> None:
        """
        A topic that is not there is waited for, and not made. Then everything
        arrives, the events of a capture in one partition, in their order.
        """
        server = KafkaServer(self, reactor)
        await server.start()
        publisher = self.publisher(server.port)
        told = self.emit(200)
        await self.said("Failed to update metadata")
        self.assertFalse(publisher.connected)
        server.create("events", 3)
        await self.settled(publisher)
        subscriber = KafkaSubscriber(self, server.port, "events", 3)
        while len(subscriber.events) < len(told):
            subscriber.poll()
        found = names(subscriber.events)
        self.assertEqual(sorted(found), sorted(told))
        for n in range(200):
            self.assertEqual([k for id, k in found if id == f"c{n}"], list(KINDS))
            self.assertEqual(len(subscriber.places[f"c{n}"]), 1)

    async def test_large(self) -> None:
        """
        What is larger than brokers take is dropped, alone of its batch.
        """
        server = KafkaServer(self, reactor)
        await server.start()
        server.create("events", 1)
        publisher = self.publisher(server.port)
        for id, size in (("a", 1), ("b", 1_100_000), ("c", 1)):
            self.events.emit("armed", id, {"tags": "x" * size})
        await self.settled(publisher)
        self.assertEqual((publisher.published, publisher.dropped), (2, 1))
        await self.said("an event of b cannot be published")
        subscriber = KafkaSubscriber(self, server.port, "events", 1)
        while len(subscriber.events) < 2:
            subscriber.poll()
        self.assertEqual([e["id"] for e in subscriber.events], ["a", "c"])

    async def test_lost(self) -> None:
        """
        A connection that is lost is made anew, with what was on it, in order, and
        leaves no thread behind.
        """
        server = KafkaServer(self, reactor)
        way = Way(self, reactor)
        await server.start(advertised=way.port)
        server.create("events", 1)
        way.open(server.port)
        publisher = self.publisher(way.port)
        told = self.emit(1)
        await self.settled(publisher)
        threads = threading.active_count()
        for n in range(1, 3):
            await way.block()
            told += self.emit(1, n)
            way.open(server.port)
            await self.settled(publisher)
        self.assertLessEqual(threading.active_count(), threads)
        # The way is in the reactor, so nothing of this may keep it.
        subscriber = await deferToThread(KafkaSubscriber, self, way.port, "events", 1)
        while len(subscriber.events) < len(told):
            await deferToThread(subscriber.poll)
        self.assertEqual(list(dict.fromkeys(names(subscriber.events))), told)
        await deferToThread(subscriber._consumer.close)

    async def test_password(self) -> None:
        """
        Wrong credentials are an error, without the password.
        """
        server = KafkaServer(self, reactor)
        way = Way(self, reactor, username="me", password="right")
        await server.start(advertised=way.port)
        server.create("events", 1)
        way.open(server.port)
        self.publisher(
            way.port, security="SASL_PLAINTEXT", username="me", password="wrong!"
        )
        self.emit(1)
        line = await self.said("cannot publish events to topic events")
        self.assertIn("Authentication", line)
        self.assertNotIn("wrong!", str(self.logged(*EVERYTHING)))


class _Library:
    """
    A C{KafkaProducer} whose broker takes less than 100 bytes at once.
    """

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self._open: list[tuple[bytes, Future]] = []

    def partitions_for(self, topic: str) -> set[int]:
        """There is one."""
        return {0}

    def send(self, topic: str, value: bytes, key: bytes) -> Any:
        """Wait for the flush."""
        future = Future()
        self._open.append((value, future))
        return future

    def flush(self, timeout: float) -> None:
        """Send all at once."""
        sound = sum(len(value) for value, _ in self._open) < 100
        for value, future in self._open:
            if sound:
                self.taken.append(value)
                future.success(None)
            else:
                future.failure(MessageSizeTooLargeError())
        self._open.clear()


class ProducerTests(TestCase):
    """
    L{kafka.Producer} and a broker with little room.
    """

    def test_room(self) -> None:
        """
        What is too large together is sent one by one, and only what is too large by
        itself is refused.
        """
        producer, library = kafka.Producer({}, "events"), _Library()
        self.patch(producer, "_make", lambda: library)
        records = [(b"key", bytes(size)) for size in (60, 100, 60)]
        said = "larger than the broker allows"
        self.assertEqual(producer.send(records), [None, said, None])
        self.assertEqual(library.taken, [bytes(60), bytes(60)])


class _Client:
    """
    SQS, as far as it is needed to fail.
    """

    def __init__(self) -> None:
        self.calls: list[list[dict[str, str]]] = []
        self.answers: list[list[dict[str, Any]]] = []

    def send_message_batch(
        self, QueueUrl: str, Entries: list[dict[str, str]]
    ) -> dict[str, Any]:
        """
        Take all that is not among the failures to come.
        """
        self.calls.append(Entries)
        failed = self.answers.pop(0) if self.answers else []
        wrong = {each["Id"] for each in failed}
        good = [{"Id": e["Id"]} for e in Entries if e["Id"] not in wrong]
        return {"Successful": good, "Failed": failed}


class SqsTests(_Case):
    """
    An SQS queue.
    """

    skip = missingMoto()
    URL = "https://sqs.eu-central-1.amazonaws.com/123/events"

    def publisher(self, url: str, **settings: Any) -> SqsPublisher:
        """
        Make a publisher to a queue.
        """
        return SqsPublisher(
            reactor,
            self.events,
            url,
            deferToThread,
            accessid="theid",
            accesskey="thekey",
            **settings,
        )

    async def test_fifo(self) -> None:
        """
        A FIFO queue gets a capture as a group, in order.
        """
        server = MotoServer(self, reactor)
        await server.start()
        client = server.client("sqs")
        self.addCleanup(client.close)
        queue = client.create_queue(
            QueueName="events.fifo", Attributes={"FifoQueue": "true"}
        )["QueueUrl"]
        publisher = self.start(self.publisher(queue))
        told = self.emit(15)
        await self.settled(publisher)
        subscriber = SqsSubscriber(client, queue)
        while len(subscriber.events) < len(told):
            subscriber.poll()
        self.assertEqual(names(subscriber.events), told)

    async def test_parts(self) -> None:
        """
        What of a batch fails is sent again, and nothing else; what is at fault
        itself is not.
        """
        client = _Client()
        publisher = self.publisher(self.URL)
        publisher._makeClient = lambda: client  # type: ignore[assignment]
        client.answers.append(
            [
                {"Id": "0", "Code": "InternalError", "SenderFault": False},
                {"Id": "2", "Code": "InvalidMessageContents", "SenderFault": True},
            ]
        )
        self.start(publisher)
        for n in range(4):
            self.events.emit("armed", f"c{n}", {})
        await self.settled(publisher)
        sent = [
            [json.loads(entry["MessageBody"])["id"] for entry in call]
            for call in client.calls
        ]
        self.assertEqual(sent, [["c0", "c1", "c2", "c3"], ["c0"]])
        self.assertEqual((publisher.published, publisher.dropped), (3, 1))
        await self.said("an event of c2 cannot be published")

    def test_room(self) -> None:
        """
        The fullest batch is no larger than SQS allows, whatever its events missed.
        """
        publisher = self.publisher(self.URL)
        for sizes in ([publisher.longest], [publisher.mostBytes // 10] * 10):
            for n, size in enumerate(sizes):
                item = Item(f"c{n}", f"k{n}", b"x" * size, missed=10**15)
                publisher._queue.append(item)
            batch = publisher._take()
            self.assertEqual(len(batch), len(sizes))
            self.assertLessEqual(sum(len(item.data) for item in batch), 256 * 1024)

    async def test_absent(self) -> None:
        """
        A queue that there is not is an error, without the key.
        """
        server = MotoServer(self, reactor)
        await server.start()
        publisher = self.publisher(f"{server.url}/123456789012/nope")
        self.start(publisher)
        self.emit(1)
        await self.said("does not exist")
        self.assertNotIn("thekey", str(self.logged(*EVERYTHING)))

    def test_url(self) -> None:
        """
        What is no URL is a mistake of the configuration.
        """
        error = self.assertRaises(StartError, self.publisher, "events")
        self.assertIn("[sqs] events: 'events' is not", str(error))


class _Stalling(Protocol):
    def __init__(self, server: _Stalled) -> None:
        self.server = server

    def connectionMade(self) -> None:
        self.server.made += 1
        self.server.open.add(self)

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 500 Oh\r\nContent-Length: 9\r\n\r\n")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.server.open.discard(self)


class _Stalled(ServerFactory):
    """
    A web server whose answers have no end.

    @ivar made: How many connections there were.
    @ivar open: Those that there are.
    """

    noisy = False

    def __init__(self) -> None:
        self.made = 0
        self.open: set[_Stalling] = set()

    def buildProtocol(self, addr: object) -> Any:
        return _Stalling(self)


class WebhookTests(_Case):
    """
    A web server.
    """

    def setUp(self) -> None:
        super().setUp()
        self.hook = Hook(self)

    def publisher(self, scheme: str = "http", **settings: Any) -> Publisher:
        """
        Start a publisher to a secret place.
        """
        url = f"{scheme}://localhost:{self.hook.port}/hush/hush?token=hush"
        publisher = WebhookPublisher(reactor, self.events, url, **settings)
        return self.start(publisher)

    async def arrives(self, publisher: Publisher) -> None:
        """
        See that it does after all, and that nothing was said that is secret.
        """
        self.assertFalse(publisher.connected)
        await self.settled(publisher)
        self.assertTrue(publisher.connected)
        self.assertEqual(names(self.hook.events), [("c0", kind) for kind in KINDS])
        self.assertNotIn("hush", str(self.logged(*EVERYTHING)))

    def answer(self, status: int, times: int = 2, **headers: str) -> None:
        """
        Have the next requests answered like this.
        """
        self.hook.answers.extend([(status, headers)] * times)

    async def test_busy(self) -> None:
        """
        What may be better later is a warning, the second time.
        """
        self.hook.start()
        publisher = self.publisher()
        self.answer(503)
        self.emit(1)
        await self.said("answered 503")
        self.assertEqual(self.logged(ERROR), [])
        await self.arrives(publisher)

    async def test_redirect(self) -> None:
        """
        Nobody is led elsewhere.
        """
        self.hook.start()
        publisher = self.publisher()
        self.answer(302, 1, Location=f"http://localhost:{self.hook.port}/hush")
        self.emit(1)
        self.assertIn("not followed", await self.said("answered 302"))
        await self.arrives(publisher)
        self.assertEqual(len({path for path, _, _ in self.hook.requests}), 1)

    async def test_refused(self) -> None:
        """
        What somebody has to mend is an error at once.
        """
        self.hook.start()
        publisher = self.publisher()
        self.answer(401, 1)
        self.emit(1)
        await self.said("answered 401")
        self.assertEqual(len(self.logged(ERROR)), 1)
        await self.arrives(publisher)

    async def test_away(self) -> None:
        """
        Nobody answers.
        """
        publisher = self.publisher()
        self.emit(1)
        await self.said("refused")
        self.hook.start()
        await self.arrives(publisher)

    async def test_slow(self) -> None:
        """
        Who takes too long is cut off.
        """
        self.hook.pause = 0.5
        self.hook.start()
        publisher = self.publisher(timeout=0.1)
        self.answer(500, 3)
        self.emit(1)
        await self.said("no answer within 0.1 s")
        self.hook.pause = 0
        await self.settled(publisher)

    async def test_stalled(self) -> None:
        """
        Who begins an answer and does not end it keeps no connection.
        """
        stalled = _Stalled()
        port = reactor.listenTCP(self.hook.port, stalled, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        publisher = self.publisher(timeout=0.1)
        self.emit(1)
        await until(reactor, lambda: stalled.made > 2, "three attempts")
        self.assertLessEqual(len(stalled.open), 1)
        await publisher.stopService()
        await until(reactor, lambda: not stalled.open, "all closed")

    async def test_stop(self) -> None:
        """
        A stop in the midst of connecting says no more than what is lost by it.
        """
        server = socket.create_server(("127.0.0.1", self.hook.port), backlog=0)
        self.addCleanup(server.close)
        for _ in range(2):
            # There is no room for more.
            client = socket.socket()
            self.addCleanup(client.close)
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", self.hook.port))
        publisher = self.publisher()
        self.emit(1)
        await publisher.stopService()
        waited = f"{len(KINDS)} events did not get to {publisher.where} before the end"
        self.assertEqual(self.logged(*EVERYTHING), [waited])

    async def test_long(self) -> None:
        """
        An answer without end is not read to its end.
        """
        self.hook.body = b"x" * (32 << 20)
        self.hook.start()
        publisher = self.publisher()
        self.answer(200, 1)
        self.emit(1)
        await self.settled(publisher)
        self.assertEqual(publisher.published, 4)
        await until(reactor, lambda: self.hook.cut, "cut off")

    async def test_connection(self) -> None:
        """
        One connection serves, and one that was closed meanwhile is no news.
        """
        self.hook.start()
        publisher = self.publisher()
        self.emit(1)
        await self.settled(publisher)
        assert self.hook._server is not None
        self.assertEqual(len(self.hook._server.links), 1)
        self.hook.kill()
        self.hook.start()
        self.emit(1)
        await self.settled(publisher)
        self.assertEqual(self.logged(WARN, ERROR), [])

    async def test_tls(self) -> None:
        """
        With TLS the certificate must be good.
        """
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        cafile = self.mktemp()
        authority.cert_pem.write_to_path(cafile)
        self.hook.start(context)
        good = self.publisher("https", cafile=cafile)
        self.emit(1)
        await self.settled(good)
        self.assertEqual(len(self.hook.events), 4)
        await good.stopService()
        bad = self.publisher("https")
        self.emit(1)
        await self.said("TLS: certificate verify failed")
        self.assertEqual((bad.published, bad.connected), (0, False))

    def test_signature(self) -> None:
        """
        The vector that Standard Webhooks has in its tests.
        """
        key = signingKey("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        found = signature(
            key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
        )
        self.assertEqual(found, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
        self.assertEqual(signingKey("any text"), b"any text")
        self.assertEqual(signingKey("whsec_?"), b"whsec_?")

    def test_port(self) -> None:
        """
        Of an address only the host is told.
        """
        url = f"http://localhost:{freePort()}/hush"
        publisher = WebhookPublisher(reactor, self.events, url)
        self.assertNotIn("hush", publisher.where)
