# See LICENSE for details.
"""
The whole daemon and the buses that have rules of their own about who gets a
message: Kafka, where everybody does, and SQS, where one does.
"""

from __future__ import annotations

import json
from collections import Counter

from twisted.internet import reactor

from pcapdaemon.test import pcapfile
from pcapdaemon.test.allcase import SECRETS, HouseTestCase
from pcapdaemon.test.frames import frame, sequenceOf
from pcapdaemon.test.process import Daemon
from pcapdaemon.test.servers import until

NODES = ("node-a", "node-b", "node-c")
#: Of the topic.
PARTITIONS = 6
#: How many messages of each kind are in the queue.
MINE, OTHERS, RUBBISH = 70, 70, 60


def request(node: str, number: int) -> bytes:
    """
    A request for one packet, told from others by its number.
    """
    where = {"node": node, "interface": "vb", "packets": 1}
    # However long it takes until all are armed.
    return json.dumps({**where, "timeout": 60, "alertid": number}).encode()


class KafkaTests(HouseTestCase):
    """
    Requests by Kafka.
    """

    async def test_fleet(self) -> None:
        """
        Every daemon captures what is asked of any node, whichever partition the
        message is in; the others do not what is asked of one. When the broker was
        killed and is back the next message reaches all of them.
        """
        await self.kafka.start()
        self.kafka.create("capture", PARTITIONS)
        server = [f"127.0.0.1:{self.kafka.port}"]
        daemons = [
            self.started(
                general={"node": node}, kafka={"listen": True, "server": server}
            )
            for node in NODES
        ]
        for number in range(PARTITIONS):
            self.kafka.publish("capture", request("any", number), partition=number)
        self.kafka.publish("capture", request("node-b", PARTITIONS))
        self.captured(daemons, [PARTITIONS, PARTITIONS + 1, PARTITIONS])

        await self.kafka.kill()
        for daemon in daemons:
            daemon.waitForLine("lost Kafka at ")
            health = daemon.http("GET", "/healthz")[1]
            self.assertEqual(health["listeners"], {"http": True, "kafka": False})
        await self.kafka.start(self.kafka.port)
        self.kafka.create("capture", PARTITIONS)
        self.kafka.publish("capture", request("any", 100), partition=4)
        self.captured(daemons, [PARTITIONS + 1, PARTITIONS + 2, PARTITIONS + 1])
        for daemon in daemons:
            daemon.waitForLine("reading topic ", 2)
            health = daemon.http("GET", "/healthz")[1]
            self.assertEqual(health["listeners"], {"http": True, "kafka": True})
            self.assertEqual(daemon.stop(), 0)

    def captured(self, daemons: list[Daemon], counts: list[int]) -> None:
        """
        Let all captures that run have their packet, and see that there were so
        many until now, each asked for once.
        """
        for daemon, count in zip(daemons, counts, strict=True):
            daemon.waitForCount("armed", count)
        number = sum(counts)
        self.pair.send([frame(number)])
        for daemon, count in zip(daemons, counts, strict=True):
            event = daemon.waitForCount("stored", count)[-1]
            file = pcapfile.read(daemon.captures / event["filename"])
            self.assertEqual([sequenceOf(x.data) for x in file.records], [number])
            accepted = daemon.told("accepted")
            self.assertEqual(len({x["alertid"] for x in accepted}), count)
            self.assertEqual(len(accepted), count)


class SqsTests(HouseTestCase):
    """
    Requests by SQS.
    """

    async def test_mixed(self) -> None:
        """
        Of what is in the queue in all disorder, what is mine runs once, rubbish
        is deleted, and what is for another node is there for it in the end.
        """
        await self.startQueue(visibility=2)
        mine = [request("node-a", n) for n in range(MINE)]
        others = [request("node-b", n) for n in range(OTHERS)]
        rubbish = [b"rubbish %d" % n for n in range(RUBBISH)]
        # Of each kind one after the other.
        messages = sorted(
            [*enumerate(mine), *enumerate(others), *enumerate(rubbish)],
            key=lambda each: each[0],
        )
        for start in range(0, len(messages), 10):
            entries = [
                {"Id": str(n), "MessageBody": body.decode()}
                for n, (_, body) in enumerate(messages[start : start + 10])
            ]
            self.sqs.send_message_batch(QueueUrl=self.queue, Entries=entries)
        daemon = self.started(
            sqs={
                "listen": True,
                "url": self.queue,
                "region": "us-east-1",
                "accessid": SECRETS["sqsid"],
                "accesskey": SECRETS["sqskey"],
            }
        )
        daemon.waitForCount("rejected", RUBBISH)
        armed = daemon.waitForCount("armed", MINE)
        self.pair.send([frame(0)])
        daemon.waitForEvents("stored", [event["id"] for event in armed])
        await until(reactor, lambda: self.queued() == OTHERS, "the rest is deleted")
        self.assertEqual(daemon.stop(), 0)
        runs = Counter(event["alertid"] for event in daemon.told("accepted"))
        self.assertEqual(runs, Counter(range(MINE)))
        reasons = Counter(event["reason"] for event in daemon.told("rejected"))
        self.assertEqual(reasons, {"malformed": RUBBISH})
        found: set[str] = set()

        def all() -> bool:
            answer = self.sqs.receive_message(
                QueueUrl=self.queue, MaxNumberOfMessages=10
            )
            for message in answer.get("Messages", ()):
                found.add(message["Body"])
                receipt = message["ReceiptHandle"]
                self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=receipt)
            return len(found) >= OTHERS

        await until(reactor, all, "what is for others")
        self.assertEqual(found, {body.decode() for body in others})
        self.assertEqual(self.queued(), 0)
