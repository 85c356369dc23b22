# See LICENSE for details.
"""
Tests for L{pcapdaemon.listeners.kafka} against a real broker.
"""

from __future__ import annotations

import gc
import gzip
import io
import os
import threading
from typing import Any

import lz4.frame
import trustme
import zstandard

from twisted.internet import reactor
from twisted.internet.ssl import PrivateCertificate
from twisted.trial.unittest import TestCase

from pcapdaemon.listeners import _kafka_reader
from pcapdaemon.listeners.kafka import KafkaListener
from pcapdaemon.test.servers import freePort, until
from pcapdaemon.test.servers_kafka import (
    GZIP,
    LZ4,
    SNAPPY,
    ZSTD,
    KafkaServer,
    Way,
    batch,
    forged,
    missingTansu,
)
from pcapdaemon.test.test_redis import ERROR, EVERYTHING, WARN, Messages, collectLog


def descriptorsInUse() -> int:
    """
    How many descriptors are open that somebody needs: kafka-python leaves sockets
    that were refused to the garbage collector.
    """
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


class _BrokerCase(TestCase):
    """
    What the tests against a real broker need.
    """

    skip = missingTansu()

    def setUp(self) -> None:
        """
        Make a broker, which each test starts as it likes.
        """
        self.server = KafkaServer(self, reactor)
        self.messages = Messages()
        self.logged = collectLog(self)

    def listen(
        self, messages: Messages | None = None, **settings: Any
    ) -> KafkaListener:
        """
        Start a listener.
        """
        if "servers" not in settings:
            settings["servers"] = [f"127.0.0.1:{self.server.port}"]
        listener = KafkaListener(reactor, messages or self.messages, **settings)
        listener.startService()
        self.addCleanup(lambda: listener.stopService() if listener.running else None)
        return listener

    async def reading(self, listener: KafkaListener) -> None:
        """
        Wait until the listener reads.
        """
        await until(reactor, lambda: listener.connected, "reading")

    async def noticed(self, listener: KafkaListener) -> None:
        """
        Wait until the listener knows that it does not read any more.
        """
        await until(reactor, lambda: not listener.connected, "noticed")

    async def arrives(self, *expected: bytes) -> None:
        """
        Wait for messages, and see that they, and no others, arrive.
        """
        received = self.messages.received
        await until(
            reactor, lambda: set(expected) <= set(received), f"{expected} in {received}"
        )
        self.assertEqual(sorted(received), sorted(expected))
        received.clear()


class BrokerTests(_BrokerCase):
    """
    The listener against a broker that speaks plainly.
    """

    async def test_messages(self) -> None:
        """
        Messages arrive byte for byte, from the first one after the connection
        on, and none from before.
        """
        await self.server.start()
        self.server.create("capture")
        self.server.publish("capture", b"before")
        listener = self.listen()
        self.assertFalse(listener.connected)
        await self.reading(listener)
        self.server.publish("capture", b'{"node": "any"}', b"\xff\xfe\x00", None)
        self.server.publish("capture", bytes(range(256)) * 200)
        await self.arrives(
            b'{"node": "any"}', b"\xff\xfe\x00", b"", bytes(range(256)) * 200
        )

    async def test_partitions(self) -> None:
        """
        Thousands of messages in all partitions arrive once each, and those of a
        partition in order.
        """
        await self.server.start()
        self.server.create("capture", 6)
        await self.reading(self.listen())
        for n in range(100):
            values = (b"%d %d" % (n % 6, n * 30 + i) for i in range(30))
            self.server.publish("capture", *values, partition=n % 6)
        received = self.messages.received
        await until(reactor, lambda: len(received) >= 3000, "3000 messages")
        self.server.publish("capture", b"9 9999")
        await until(reactor, lambda: b"9 9999" in received, "the last one")
        pairs = [tuple(map(int, message.split())) for message in received]
        self.assertEqual(sorted(n for _, n in pairs), [*range(3000), 9999])
        for partition in range(6):
            numbers = [n for where, n in pairs if where == partition]
            self.assertEqual(numbers, sorted(numbers))

    async def test_three(self) -> None:
        """
        Each of several listeners gets every message.
        """
        await self.server.start()
        self.server.create("capture", 2)
        all = [Messages() for _ in range(3)]
        for messages in all:
            await self.reading(self.listen(messages))
        for partition in (0, 1, 0):
            self.server.publish("capture", b"x", b"y", partition=partition)
        for messages in all:
            await until(reactor, lambda m=messages: len(m.received) == 6, "messages")  # type: ignore[misc]

    async def test_large(self) -> None:
        """
        Of a message that is too large only the size is told, and the next one is
        taken.
        """
        await self.server.start()
        self.server.create("capture")
        await self.reading(self.listen())
        self.server.publish("capture", bytes(Messages.maxmessage + 1), b"next")
        self.server.publish("capture", bytes(900_000))
        self.server.publish("capture", b"last")
        await self.arrives(b"next", b"last")
        self.assertEqual(self.messages.sizes, [Messages.maxmessage + 1, 900_000])

    async def test_poison(self) -> None:
        """
        Compressed messages are read, damaged ones and bombs passed over, and the
        next good one is taken.
        """
        await self.server.start()
        self.server.create("capture")
        await self.reading(self.listen())
        packed = io.BytesIO()
        with gzip.GzipFile(fileobj=packed, mode="w", compresslevel=1) as bomb:
            for _ in range(400):
                bomb.write(bytes(1_000_000))
        zeros = bytes(50_000_000)
        self.server.send("capture", forged(GZIP, packed.getvalue()))
        self.server.send("capture", forged(LZ4, lz4.frame.compress(zeros)))
        self.server.send("capture", forged(ZSTD, zstandard.compress(zeros)))
        for codec in (GZIP, SNAPPY, LZ4, ZSTD):
            self.server.send("capture", batch(b"%d" % codec * 100, codec=codec))
            self.server.send("capture", forged(codec, b"garbage"))
        self.server.send("capture", forged(0, b"garbage"))
        self.server.publish("capture", b"good")
        await self.arrives(*(b"%d" % codec * 100 for codec in range(1, 5)), b"good")
        self.assertEqual(len(self.messages.sizes), 3)
        self.assertEqual(len(self.logged(WARN)), 1)

    async def test_noTopic(self) -> None:
        """
        A topic that does not exist is waited for and not made; its very first
        message arrives.
        """
        await self.server.start()
        listener = self.listen()
        await until(reactor, lambda: self.logged(WARN), "warning")
        self.assertIn("there is no such topic", self.logged(WARN)[0])
        self.assertFalse(listener.connected)
        self.server.create("capture", 2)  # Fails if it exists.
        self.server.publish("capture", b"first", partition=1)
        await self.arrives(b"first")
        await self.reading(listener)

    async def test_recreated(self) -> None:
        """
        When the topic is deleted and made again, all of the new one arrives.
        """
        self.patch(_kafka_reader, "METADATA", 1.0)
        await self.server.start()
        self.server.create("capture")
        await self.reading(self.listen())
        self.server.publish("capture", b"1", b"2", b"3")
        await self.arrives(b"1", b"2", b"3")
        self.server.delete("capture")
        self.server.create("capture")
        self.server.publish("capture", b"4")
        await self.arrives(b"4")

    async def test_stop(self) -> None:
        """
        A stop ends a poll in the middle. Started again, it begins with what is
        published from then on.
        """
        await self.server.start()
        self.server.create("capture")
        threads = threading.active_count()
        listener = self.listen()
        await self.reading(listener)
        await listener.stopService()
        self.assertFalse(listener.connected)
        await until(
            reactor, lambda: threading.active_count() == threads, "no more threads"
        )
        self.server.publish("capture", b"missed")
        listener.startService()
        await self.reading(listener)
        self.server.publish("capture", b"x")
        await self.arrives(b"x")


class OutageTests(_BrokerCase):
    """
    The listener, and a broker that comes and goes.
    """

    async def test_startsLater(self) -> None:
        """
        A broker that is not there yet is waited for, with one line in the log,
        and no growing number of threads and descriptors.
        """
        # Several consumers in the time of the test.
        self.patch(_kafka_reader, "CONNECT", 0.3)
        port = freePort()
        listener = self.listen(servers=[f"127.0.0.1:{port}"])
        made: list[object] = []
        connect = listener._connect

        def counted() -> Any:
            made.append(None)
            return connect()

        assert listener._reader is not None
        self.patch(listener._reader, "_connect", counted)
        await until(reactor, lambda: len(made) == 2, "two attempts")
        threads, descriptors = threading.active_count(), descriptorsInUse()
        await until(reactor, lambda: len(made) == 6, "six attempts")
        self.assertLessEqual(threading.active_count(), threads + 1)
        self.assertLessEqual(descriptorsInUse(), descriptors + 4)
        [warning] = self.logged(WARN)
        self.assertIn("ECONNREFUSED", warning)
        await self.server.start(port=port)
        self.server.create("capture")
        await self.reading(listener)
        self.server.publish("capture", b"x")
        await self.arrives(b"x")

    async def test_killed(self) -> None:
        """
        After a broker that keeps nothing was killed and came back, the first
        message that it gets arrives, though its numbers begin anew.
        """
        await self.server.start()
        self.server.create("capture")
        listener = self.listen()
        await self.reading(listener)
        self.server.publish("capture", b"1", b"2", b"3")
        await self.arrives(b"1", b"2", b"3")
        for n in range(2):
            await self.server.restart()
            self.server.create("capture")
            self.server.publish("capture", b"%d" % n)
            await self.arrives(b"%d" % n)
            await self.reading(listener)
        self.assertEqual(self.logged(ERROR), [])

    async def test_frozen(self) -> None:
        """
        A broker that stands still with open sockets is noticed, and found again
        when it goes on.
        """
        self.patch(_kafka_reader, "ANSWER", 1.0)
        await self.server.start()
        self.server.create("capture")
        listener = self.listen()
        await self.reading(listener)
        self.server.pause()
        await self.noticed(listener)
        self.server.resume()
        self.server.publish("capture", b"x")
        await self.arrives(b"x")

    async def test_outage(self) -> None:
        """
        What is published while the way to the broker is blocked arrives
        afterwards; nothing arrives twice.
        """
        way = Way(self, reactor)
        await self.server.start(advertised=way.port)
        self.server.create("capture", 2)
        way.open(self.server.port)
        listener = self.listen(servers=[f"127.0.0.1:{way.port}"])
        await self.reading(listener)
        for n in range(2):
            self.server.publish("capture", b"a%d" % n, b"b%d" % n, partition=n)
            await self.arrives(b"a%d" % n, b"b%d" % n)
            await way.block()
            self.server.publish("capture", b"during%d" % n, partition=1)
            await self.noticed(listener)
            self.server.publish("capture", b"later%d" % n)
            way.open(self.server.port)
            await self.arrives(b"during%d" % n, b"later%d" % n)
            await self.reading(listener)
        [first, second] = self.logged(WARN)
        self.assertTrue(first.startswith("lost Kafka"), first)
        await listener.stopService()

    async def test_stopAway(self) -> None:
        """
        A stop does not wait for a broker that is not there, or stands still.
        """
        listener = self.listen(servers=[f"127.0.0.1:{freePort()}"])
        await until(reactor, lambda: self.logged(WARN), "warning")
        await listener.stopService()
        await self.server.start()
        self.server.create("capture")
        listener = self.listen()
        await self.reading(listener)
        self.server.pause()
        await listener.stopService()
        self.assertFalse(listener.connected)


class SecurityTests(_BrokerCase):
    """
    The listener and a broker that not everybody may read from.
    """

    async def guarded(self, **settings: Any) -> str:
        """
        Start a broker behind a guarded way.

        @return: Where to connect to.
        """
        way = Way(self, reactor, **settings)
        await self.server.start(advertised=way.port)
        self.server.create("capture")
        way.open(self.server.port)
        return f"localhost:{way.port}"

    async def test_tls(self) -> None:
        """
        A broker is believed if an authority in C{cafile} vouches for it and its
        name, and else refused.
        """
        authority, stranger = trustme.CA(), trustme.CA()
        ours, others = (f"{self.server.directory}/{name}" for name in ("ca", "other"))
        authority.cert_pem.write_to_path(ours)
        stranger.cert_pem.write_to_path(others)
        own = authority.issue_cert("localhost", "127.0.0.1")
        pem = own.private_key_and_cert_chain_pem.bytes()
        context = PrivateCertificate.loadPEM(pem).options()
        server = await self.guarded(context=context)
        listener = self.listen(servers=[server], security="SSL", cafile=others)
        await until(reactor, lambda: self.logged(WARN), "warning")
        self.assertIn("certificate verify failed", self.logged(WARN)[0])
        self.assertFalse(listener.connected)
        await listener.stopService()
        listener = self.listen(servers=[server], security="SSL", cafile=ours)
        await self.reading(listener)
        self.server.publish("capture", b"x")
        await self.arrives(b"x")
        await listener.stopService()

    async def test_password(self) -> None:
        """
        With the right password messages arrive; a wrong one is an error in the
        log, without the password.
        """
        server = await self.guarded(username="joe", password="sesame")
        sasl: dict[str, Any] = {
            "security": "SASL_PLAINTEXT",
            "username": "joe",
            "servers": [server],
        }
        listener = self.listen(**sasl, password="hunter2")
        await until(reactor, lambda: self.logged(ERROR), "error")
        [error] = self.logged(ERROR)
        self.assertIn("does not let us read capture", error)
        self.assertIn("SaslAuthenticationFailed", error)
        self.assertFalse(listener.connected)
        await listener.stopService()
        listener = self.listen(**sasl, password="sesame")
        await self.reading(listener)
        self.server.publish("capture", b"x")
        await self.arrives(b"x")
        await listener.stopService()
        said = " ".join(self.logged(*EVERYTHING))
        self.assertNotIn("hunter2", said)
        self.assertNotIn("sesame", said)

    async def test_mechanism(self) -> None:
        """
        A mechanism that the broker does not offer is an error in the log.
        """
        server = await self.guarded(username="joe", password="sesame")
        self.listen(
            servers=[server],
            security="SASL_PLAINTEXT",
            username="joe",
            password="sesame",
            mechanism="SCRAM-SHA-256",
        )
        await until(reactor, lambda: self.logged(ERROR), "error")
        self.assertIn("sasl mechanism", self.logged(ERROR)[0])
