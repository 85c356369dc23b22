# See LICENSE for details.
"""
The whole daemon with every bus and every sink at once, as the original's sample
configuration has them.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
from typing import Any

from twisted.internet import reactor

from pcapdaemon.plan import safeHost
from pcapdaemon.test import pcapfile
from pcapdaemon.test.allcase import SECRETS, HouseTestCase
from pcapdaemon.test.frames import frame
from pcapdaemon.test.process import Daemon
from pcapdaemon.test.servers import until

#: What the daemon calls itself where the configuration does not say.
HOST = socket.gethostname()
SINKS = ["cloudshark", "local", "s3"]
#: Seconds in which an idle daemon ends for sure; one poll of SQS takes 20.
SOON = 10.0


class OriginalTests(HouseTestCase):
    """
    The sample, edited only as to hosts, ports, credentials, a device and the
    directory; and with C{writelocal}.
    """

    def send(self, bus: str, **request: Any) -> None:
        """
        Publish a request on one of the buses.
        """
        body = json.dumps(request)
        if bus == "redis":
            self.assertEqual(self.redis.publish("capture", body.encode()), 1)
        elif bus == "kafka":
            self.kafka.publish("capture", body.encode(), partition=2)
        else:
            self.sqs.send_message(QueueUrl=self.queue, MessageBody=body)

    async def test_all(self) -> None:
        """
        One request by each bus: each pcap is in all three sinks, the same bytes,
        under the right name and with all that belongs to it.
        """
        edits = await self.startAll()
        daemon = self.original(edits)
        daemon.start()
        about = {"packets": 3, "timeout": 60, "tags": "blah,tagme", "customer": "C&A"}
        wanted: dict[str, dict[str, Any]] = {
            "redis": {"node": HOST, "interface": ["vb"], "alertid": 1},
            "kafka": {"nodere": ".", "alias": ["public"], "encryption": True},
            "sqs": {
                "node": "any",
                "alias": ["main"],
                "folder": "/mine/today/",
                "acl": "public-read",
            },
        }
        for bus, request in wanted.items():
            self.send(bus, **about, **request)
        accepted = daemon.waitForCount("accepted", 3)
        ids = {event["bus"]: event["id"] for event in accepted}
        self.assertEqual(set(ids), set(wanted))
        daemon.waitForEvents("armed", ids.values())
        frames = [frame(n) for n in range(3)]
        self.pair.send(frames)
        daemon.waitForCount("stored", 9)
        self.assertEqual(len(daemon.events), 3 * 3 + 9)
        for bus, id in ids.items():
            data = self.same(daemon, id, wanted[bus])
            records = pcapfile.read(data).records
            self.assertEqual([record.data for record in records], frames)
        self.assertEqual(len(list(daemon.captures.iterdir())), 3)
        self.assertEqual(len(self.cloudshark.kept()), 3)
        self.assertEqual(len(self.weed.keys()), 3)
        await until(reactor, lambda: not self.queued(), "the message is deleted")
        self.assertEqual(daemon.stop(), 0)

    def same(self, daemon: Daemon, id: str, request: dict[str, Any]) -> bytes:
        """
        See that all sinks have the same file, with all that belongs to it.

        @param request: What was asked for.
        @return: The file.
        """
        completed = daemon.waitForEvent("completed", id)
        name = completed["filename"]
        self.assertRegex(name, rf"^{re.escape(safeHost(HOST))}-vb-\d+-{id}\.pcap$")
        stored = {each["sink"]: each for each in daemon.told("stored", id)}
        self.assertEqual(sorted(stored), SINKS)
        self.assertEqual({each["filename"] for each in stored.values()}, {name})
        parts = ["customer:C&A"]
        if "alertid" in request:
            parts.append(f"alertid:{request['alertid']}")
        parts.append("blah,tagme")
        if "alias" in request:
            parts.append(f"alias:{request['alias'][0]}")
        parts += [f"node:{HOST}", "interface:vb", "snaplength:500"]
        tags = ",".join(parts)

        path = daemon.captures / name
        self.assertEqual(stored["local"]["url"], path.as_uri())

        [upload] = [each for each in self.cloudshark.kept() if each["filename"] == name]
        self.assertEqual(upload["tags"], tags)
        server = f"https://localhost:{self.cloudshark.port}"
        self.assertEqual(
            stored["cloudshark"]["url"], f"{server}/captures/{upload['id']}"
        )

        key = f"{request.get('folder', 'pcaps').strip('/')}/{name}"
        server = f"https://127.0.0.1:{self.weed.httpsPort}"
        self.assertEqual(stored["s3"]["url"], f"{server}/pcapdaemon/{key}")
        found = self.weed.client().get_object(Bucket="pcapdaemon", Key=key)
        self.assertEqual(found["ContentType"], "application/vnd.tcpdump.pcap")
        self.assertEqual(found["Metadata"], {"tags": tags})
        encryption = "AES256" if "encryption" in request else None
        self.assertEqual(found.get("ServerSideEncryption"), encryption)
        # It takes an ACL and does not tell it; what is sent is in test_s3.

        local: bytes = path.read_bytes()
        for data in local, upload["content"], found["Body"].read():
            digest = hashlib.sha256(data).hexdigest()
            self.assertEqual(digest, completed["sha256"])
        return local

    async def test_idle(self) -> None:
        """
        Asked to end while all three buses are idle it does so at once, poll or no
        poll, with status 0, again and again.
        """
        edits = await self.startAll()
        daemon = self.original(edits)
        # Moto closes each connection after its answer.
        self.assertFalse(connected(self.moto.port))
        for number in [signal.SIGTERM] * 4 + [signal.SIGINT]:
            daemon.start()
            await until(reactor, lambda: connected(self.moto.port), "a poll")
            daemon.signal(number)
            self.assertEqual(daemon.wait(SOON), 0)
            self.checkSilence(daemon)

    async def test_wrong(self) -> None:
        """
        With wrong secrets everywhere nothing works, and what is said of that
        tells none of them. Each sink is asked once.
        """
        edits = await self.startAll()
        wrong = {
            ("redis", "auth"): SECRETS["redis"] + "x",
            ("cloudshark", "token"): SECRETS["token"] + "x",
            ("s3", "accessid"): SECRETS["s3id"] + "x",
            ("s3", "accesskey"): SECRETS["s3key"] + "x",
        }
        daemon = self.original({**edits, **wrong})
        daemon.launch()
        daemon.waitForLine("Redis at ")
        daemon.waitForLine("reading topic ")
        request = {"node": "any", "interface": "vb", "packets": 1}
        self.kafka.publish("capture", json.dumps(request).encode())
        daemon.waitForCount("armed", 1)
        self.pair.send([frame(0)])
        failed = {each["sink"]: each for each in daemon.waitForCount("failed", 2)}
        for sink, word in ("cloudshark", "Invalid API token"), ("s3", "AccessKeyId"):
            self.assertIn(word, failed[sink]["reason"])
            self.assertEqual(
                (failed[sink]["lost"], failed[sink]["attempts"]), (True, 1)
            )
        [stored] = daemon.waitForCount("stored", 1)
        self.assertEqual(stored["sink"], "local")
        self.assertEqual(daemon.stop(), 0)


class OverrideTests(HouseTestCase):
    """
    Where a request may have its capture put in S3.
    """

    async def listening(self, **s3: Any) -> Daemon:
        """
        Start S3 and a daemon that uploads there.
        """
        await self.weed.start()
        return self.started(s3={**self.s3Section(), **s3})

    def put(self, daemon: Daemon, **request: Any) -> str:
        """
        Have a capture.

        @return: Where it is.
        """
        before = len(daemon.told("stored"))
        daemon.arm(interface="vb", packets=1, **request)
        self.pair.send([frame(0)])
        [event] = [
            each
            for each in daemon.waitForCount("stored", before + 2)[before:]
            if each["sink"] == "s3"
        ]
        self.assertTrue(event["url"].endswith("/" + event["filename"]))
        url: str = event["url"].removesuffix("/" + event["filename"])
        return url.removeprefix(self.weed.url)

    async def test_once(self) -> None:
        """
        What a request sets holds for its own captures, and for no other.
        """
        daemon = await self.listening()
        self.weed.client().create_bucket(Bucket="another")
        self.assertEqual(self.put(daemon), "/captures/pcaps")
        self.assertEqual(self.put(daemon, bucket="another"), "/another/pcaps")
        self.assertEqual(self.put(daemon, folder="a/b"), "/captures/a/b")
        self.assertEqual(self.put(daemon), "/captures/pcaps")
        where = {"bucket": "another", "folder": "/", "encryption": True}
        self.assertEqual(self.put(daemon, **where), "/another")
        self.assertEqual(self.put(daemon), "/captures/pcaps")
        found = self.weed.client().list_objects_v2(Bucket="another")["Contents"]
        kept = {
            each["Key"].count("/"): self.weed.client().head_object(
                Bucket="another", Key=each["Key"]
            )
            for each in found
        }
        self.assertEqual(
            {n: head.get("ServerSideEncryption") for n, head in kept.items()},
            {0: "AES256", 1: None},
        )

    async def test_refused(self) -> None:
        """
        What the configuration does not allow, or an endpoint that it does not
        name, is refused whole, and says so; on a bus, too.
        """
        await self.redis.start()
        daemon = await self.listening(
            allow=["folder", "endpoint"], endpoints=["https://s3.example.net"]
        )
        for key, value in (
            ("bucket", "another"),
            ("acl", "public-read"),
            ("region", "eu-west-1"),
            ("encryption", True),
            ("endpoint", "s3.example.com"),
            ("endpoint", "http://s3.example.net"),
            ("folder", "a/../b"),
        ):
            request = {"node": "any", "interface": "vb", key: value}
            status, answer = daemon.http("POST", "/captures", request)
            self.assertEqual((status, answer["reason"]), (422, "invalid"))
            self.assertTrue(answer["detail"].startswith(key), answer)
        self.assertEqual(self.put(daemon, folder="mine"), "/captures/mine")
        daemon.configure(redis={"listen": True, "port": self.redis.port})
        daemon.signal(signal.SIGHUP)
        daemon.waitForLine("subscribed to ")
        rejected = len(daemon.told("rejected"))
        request = {"node": "any", "interface": "vb", "bucket": "another"}
        self.redis.publish("capture", json.dumps(request).encode())
        event = daemon.waitForCount("rejected", rejected + 1)[-1]
        self.assertEqual((event["bus"], event["reason"]), ("redis", "invalid"))
        self.assertEqual(len(daemon.told("accepted")), 1)


def connected(port: int) -> bool:
    """
    Whether somebody in this network is connected to a port.
    """
    with open("/proc/thread-self/net/tcp") as file:
        links = [line.split()[2:4] for line in file.readlines()[1:]]
    return [f"0100007F:{port:04X}", "01"] in links
