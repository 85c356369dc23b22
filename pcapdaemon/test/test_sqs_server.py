# See LICENSE for details.
"""
Tests for L{pcapdaemon.listeners.sqs} against moto.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import TestCase

from pcapdaemon.interfaces import Answer, Refused, Verdict
from pcapdaemon.listeners._sqsclient import makeClient
from pcapdaemon.listeners.sqs import SqsListener
from pcapdaemon.request import concerns, decode
from pcapdaemon.test.servers import freePort, until
from pcapdaemon.test.servers_moto import MotoServer, missingMoto
from pcapdaemon.test.test_redis import ERROR, EVERYTHING, WARN, Messages, collectLog

ACCOUNT = "123456789012"
KEY = "aVerySecretAccessKeyOfThisTest"


def decide(message: bytes) -> Deferred[Answer]:
    """
    Judge a message as the daemon on node C{me} does.
    """
    try:
        ours = concerns(decode(message), "me")
    except Refused:
        return succeed(Answer(Verdict.REFUSED))
    return succeed(Answer(Verdict.TAKEN if ours else Verdict.NOT_OURS))


def request(node: str, number: int) -> bytes:
    """
    @return: A request, told from others by its number.
    """
    return json.dumps({"node": node, "interface": ["lo"], "alertid": number}).encode()


class ServerTests(TestCase):
    """
    The listener against a server.
    """

    skip = missingMoto()
    timeout = 60

    def setUp(self) -> None:
        """
        Make a server, which each test starts as it likes.
        """
        self.server = MotoServer(self, reactor)
        self.messages = Messages()
        self.messages.react = decide
        self.logged = collectLog(self)

    async def queue(self, visibility: int = 30, port: int | None = None) -> None:
        """
        Start the server with one queue.
        """
        await self.server.start(port)
        self.client = self.server.client("sqs")
        self.addCleanup(self.client.close)
        self.url: str = self.client.create_queue(
            QueueName="capture", Attributes={"VisibilityTimeout": str(visibility)}
        )["QueueUrl"]

    def listen(self, **settings: Any) -> SqsListener:
        """
        Start a listener.
        """
        settings = {"accessid": "anId", "accesskey": KEY, "waitseconds": 1, **settings}
        settings.setdefault("url", f"{self.server.url}/{ACCOUNT}/capture")
        listener = SqsListener(reactor, self.messages, **settings)
        listener.startService()
        self.addCleanup(lambda: listener.stopService() if listener.running else None)
        return listener

    def send(self, *messages: bytes) -> None:
        """
        Put messages into the queue.
        """
        for start in range(0, len(messages), 10):
            entries = [
                {"Id": str(number), "MessageBody": body.decode()}
                for number, body in enumerate(messages[start : start + 10])
            ]
            self.client.send_message_batch(QueueUrl=self.url, Entries=entries)

    def left(self) -> int:
        """
        @return: How many messages the queue holds, hidden ones too.
        """
        names = [
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
        ]
        attributes = self.client.get_queue_attributes(
            QueueUrl=self.url, AttributeNames=names
        )["Attributes"]
        return sum(int(attributes[name]) for name in names)

    async def arrive(self, count: int) -> None:
        """
        Wait for so many messages.
        """
        await until(reactor, lambda: len(self.messages.received) >= count, "messages")

    async def drained(self, count: int = 0) -> None:
        """
        Wait until the queue holds no more than this.
        """

        def left() -> int:
            # A message that comes back just now is in neither of the two numbers.
            return max(self.left(), self.left())

        await until(reactor, lambda: left() <= count, f"{count} are left")
        self.assertEqual(left(), count)

    async def test_mixed(self) -> None:
        """
        Of many messages each is handed over once; ours and rubbish leave the
        queue, and others can still be had by others.
        """
        await self.queue(visibility=2)
        mine = [request("me", number) for number in range(80)]
        others = [request("other", number) for number in range(60)]
        rubbish = [b"{rubbish %d" % number for number in range(59)] + [b"\xc3\xa4" * 9]
        mixed = [m for three in zip(mine, others, rubbish) for m in three] + mine[60:]
        self.assertEqual(len(mixed), 200)
        self.send(*mixed)
        listener = self.listen()
        await self.arrive(200)
        await self.drained(60)
        await listener.stopService()
        self.assertEqual(Counter(self.messages.received), Counter(mixed))

        found: set[bytes] = set()

        def read() -> bool:
            for message in self.client.receive_message(
                QueueUrl=self.url, MaxNumberOfMessages=10, VisibilityTimeout=30
            ).get("Messages", ()):
                found.add(message["Body"].encode())
            return len(found) >= 60

        await until(reactor, read, "the messages of others are visible")
        self.assertEqual(found, set(others))
        self.assertEqual(self.logged(WARN, ERROR), [])

    async def test_otherReader(self) -> None:
        """
        Two nodes read one queue, and each request gets to its own.
        """
        await self.queue(visibility=1)
        theirs = Messages()

        def decideThere(message: bytes) -> Deferred[Answer]:
            ours = concerns(decode(message), "other")
            return succeed(Answer(Verdict.TAKEN if ours else Verdict.NOT_OURS))

        theirs.react = decideThere
        self.send(*(request(node, n) for n in range(10) for node in ("me", "other")))
        self.listen()
        there = SqsListener(
            reactor,
            theirs,
            url=self.url,
            accessid="b",
            accesskey=KEY,
            waitseconds=1,
        )
        there.startService()
        self.addCleanup(there.stopService)
        await self.drained()
        for node, messages in (("me", self.messages), ("other", theirs)):
            taken = [m for m in messages.received if decode(m)["node"] == node]
            self.assertCountEqual(taken, [request(node, n) for n in range(10)])

    async def test_foreignForEver(self) -> None:
        """
        A message for another node that is never hidden comes once, and does
        not keep ours from coming.
        """
        await self.queue(visibility=0)
        self.send(request("other", 1))
        self.listen(waitseconds=20)
        await self.arrive(1)
        self.send(request("me", 2))
        await self.arrive(2)
        await self.drained(1)
        self.assertEqual(
            self.messages.received, [request("other", 1), request("me", 2)]
        )

    async def test_notDeletedAtFirst(self) -> None:
        """
        A message whose deletion fails comes again, does not run again, and is
        deleted then.
        """
        await self.queue(visibility=1)
        failed: list[int] = []

        def fail(**_: object) -> None:
            if len(failed) < 2:
                failed.append(1)
                raise OSError("not now")

        def client() -> Any:
            made = makeClient("us-east-1", self.server.url, "anId", KEY, 1)
            made.meta.events.register("before-call.sqs.DeleteMessageBatch", fail)
            return made

        self.send(request("me", 1))
        self.listen(client=client)
        await self.arrive(1)
        await self.drained()
        self.assertEqual(self.messages.received, [request("me", 1)])
        self.assertEqual(len(failed), 2)
        self.assertEqual(len(self.logged(ERROR)), 2)

    async def test_stopWhilePolling(self) -> None:
        """
        A stop does not wait for a long poll; what that poll brings is not
        handed over, and others can have it.
        """
        await self.queue(visibility=300)
        listener = self.listen(waitseconds=20)
        await until(reactor, lambda: listener.connected, "connected")
        await until(reactor, self._polling, "a poll")
        self.assertTrue(listener.stopService().called)
        self.assertFalse(listener.connected)
        self.send(request("me", 1))
        await until(reactor, lambda: not self._polling(), "the poll has ended")

        def read() -> Any:
            return self.client.receive_message(QueueUrl=self.url).get("Messages")

        await until(reactor, read, "the message is visible again")
        self.assertEqual(self.messages.received, [])

    def _polling(self) -> bool:
        return any(
            thread.name == "pcapdaemon.sqs" and thread.daemon
            for thread in threading.enumerate()
        )

    async def test_startAgain(self) -> None:
        """
        A listener that was stopped within a poll can be started again.
        """
        await self.queue(visibility=300)
        listener = self.listen(waitseconds=20)
        await until(reactor, lambda: listener.connected, "connected")
        await listener.stopService()
        listener.startService()
        await until(reactor, lambda: listener.connected, "connected again")
        self.send(*(request("me", number) for number in range(20)))
        await self.arrive(20)
        await self.drained()
        self.assertEqual(len(self.messages.received), 20)

    async def test_downAtStart(self) -> None:
        """
        A server that is not there yet is waited for, with few words, and one
        that goes away is found again when it comes back.
        """
        port = self.server.port = freePort()
        listener = self.listen()
        await until(reactor, lambda: self.logged(WARN), "a warning")
        self.assertFalse(listener.connected)
        await self.queue(port=port)
        await until(reactor, lambda: listener.connected, "connected")
        self.send(request("me", 1))
        await self.arrive(1)
        await self.server.kill()
        await until(reactor, lambda: not listener.connected, "seen to be away")
        await self.queue(port=port)
        self.send(request("me", 2))
        await self.arrive(2)
        await self.drained()
        self.assertEqual(self.messages.received, [request("me", 1), request("me", 2)])

    async def test_noQueue(self) -> None:
        """
        A queue that does not exist is an error each time, and is found once it
        does; no credentials are logged.
        """
        await self.server.start()
        listener = self.listen()
        await until(reactor, lambda: len(self.logged(ERROR)) >= 2, "two errors")
        self.assertIn("/capture", self.logged(ERROR)[0])
        self.assertIn("does not exist", self.logged(ERROR)[0])
        self.assertFalse(listener.connected)
        self.server.client("sqs").create_queue(QueueName="capture")
        await until(reactor, lambda: listener.connected, "connected")
        self.assertNotIn(KEY, "".join(self.logged(*EVERYTHING)))
        self.assertNotIn("anId", "".join(self.logged(*EVERYTHING)))
