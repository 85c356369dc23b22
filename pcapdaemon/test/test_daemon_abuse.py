# See LICENSE for details.
"""
The whole daemon under strange, evil and very many messages.
"""

from __future__ import annotations

import http.client
import itertools
import json
import socket
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hiredis

from twisted.internet import reactor

from pcapdaemon.interfaces import Reason
from pcapdaemon.test.daemoncase import DaemonTestCase
from pcapdaemon.test.frames import frame, sequenceOf
from pcapdaemon.test.process import PATIENCE, Daemon
from pcapdaemon.test.servers import RedisServer, missing, packed

#: How many strange messages there are by Redis, and by HTTP, and how many requests
#: at once.
STRANGE, STRANGE_HTTP, REQUESTS = 2000, 300, 200
#: Bytes of memory that strange messages may leave behind.
GROWTH = 4 << 20


def request(**fields: Any) -> bytes:
    """
    A request that would be taken, but for some of its fields.
    """
    return json.dumps({"node": "any", "interface": "vb", **fields}).encode()


def _every() -> list[tuple[bytes, str]]:
    """
    Every kind of strange message, and the reason why it is refused; messages for
    others have none.
    """
    malformed = [
        b"",
        b"\0",
        b"\xff\xfe{}",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"0123",
        b"1e400",
        b"NaN",
        b'{"node": NaN}',
        b'{"node": Infinity}',
        b"[" * 30000,
        b'{"a":' * 10000,
        b"9" * 5000,
        b'{"alertid": ' + b"9" * 5000 + b"}",
        request() + b"}",
        request() * 2,
        request().decode().encode("utf-16"),
        b'{"node": "\xed\xa0\x80"}',
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(range(256)),
    ]
    invalid = [
        b"{}",
        b'{"node": "any"}',
        b'{"interface": "vb"}',
        b'{"node": "any", "interface": "vb", "alias": "main"}',
        request(nodere="."),
        request(node=""),
        request(node=None),
        request(node=["any"]),
        b'{"nodere": "(", "interface": "vb"}',
        b'{"nodere": "' + b"a" * 2000 + b'", "interface": "vb"}',
        b'{"nodere": "(?<=a)b", "interface": "vb"}',
        request(interface=[]),
        request(interface=[1]),
        request(interface={"vb": 1}),
        request(interface="v\0b"),
        request(interface="\ud800"),
        request(bpf=1),
        request(bpf="a\0b"),
        request(snap=0),
        request(snap=262145),
        request(snap="64"),
        request(packets=0),
        request(packets=-1),
        request(packets=1.5),
        request(packets=True),
        request(packets=None),
        request(bytes=[]),
        request(timeout=0),
        request(timeout=-1),
        request(timeout="1"),
        request(duration=False),
        request(duration=10**400),
        request(tags=1),
        request(customer={}),
        request(alertid=2**63),
        request(alertid="7"),
        request(packetdebug=1),
        request(logrequest="yes"),
        request(encryption=0),
    ]
    limit = [
        request(packets=50001),
        request(packets=10**300),
        request(bytes=10**18),
        request(timeout=3600.1),
        request(duration=1e308),
        request(bpf="a" * 1025),
    ]
    unknown = [
        request(interface=name)
        for name in ("eth9", "vb ", "../vb", "a" * 1000, "any ", "rpcap://x/y", "vb:1")
    ]
    bad = [request(bpf=bpf) for bpf in ("(", "host", "port 99999", "\n'\"", "ärger")]
    foreign = [request(node="node-b"), b'{"nodere": "^b", "interface": "vb"}']
    kinds = {
        Reason.MALFORMED: malformed,
        Reason.INVALID: invalid,
        Reason.LIMIT: limit,
        Reason.UNKNOWN_INTERFACE: unknown,
        Reason.UNKNOWN_ALIAS: [b'{"node": "any", "alias": ["main"]}'],
        Reason.BAD_FILTER: bad,
        Reason.TOO_LARGE: [b" " * 65537],
        "": foreign,
    }
    return [(each, reason) for reason, those in kinds.items() for each in those]


class MessageTests(DaemonTestCase):
    """
    Strange messages.
    """

    skip = missing("redis-server")

    async def listening(self, **sections: Any) -> tuple[RedisServer, Daemon]:
        """
        Start a server and a daemon that listens to it.
        """
        server = RedisServer(self, reactor)
        await server.start()
        redis = {"listen": True, "port": server.port}
        return server, self.started(redis=redis, **sections)

    def publish(self, server: RedisServer, messages: Iterable[bytes]) -> None:
        """
        Publish messages, all in one piece.
        """
        commands = [packed("PUBLISH", "capture", each) for each in messages]
        reader, heard = hiredis.Reader(), 0
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as link:
            link.sendall(b"".join(commands))
            while heard < len(commands):
                reader.feed(link.recv(65536))
                while (reply := reader.gets()) is not False:
                    self.assertEqual(reply, 1)
                    heard += 1

    async def test_redis(self) -> None:
        """
        Each strange message by Redis is refused with its reason, in order; nothing
        of it stays, and the request behind them all is taken.
        """
        server, daemon = await self.listening()
        every = _every()
        # Once before, for caches, and one that is far too large.
        self.publish(server, [message for message, _ in every])
        self.publish(server, [bytes(10_000_000)])
        count = sum(1 for _, reason in every if reason) + 1
        seen = daemon.waitForCount("rejected", count)
        self.assertEqual(seen[-1]["reason"], Reason.TOO_LARGE)
        before = daemon.usage()
        messages = list(itertools.islice(itertools.cycle(every), STRANGE))
        good = request(packets=1, alertid=7)
        self.publish(server, [*(message for message, _ in messages), good])
        (accepted,) = daemon.waitForCount("accepted", 1)
        self.assertEqual(accepted["alertid"], 7)
        reasons = Counter(reason for _, reason in messages if reason)
        refused = daemon.waitForCount("rejected", count + reasons.total())[count:]
        self.assertEqual(Counter(event["reason"] for event in refused), reasons)
        for event in refused:
            self.assertLess(len(json.dumps(event)), 1000)
        self.assertLess(daemon.usage().resident, before.resident + GROWTH)
        daemon.waitForEvent("armed", accepted["id"])
        self.pair.send([frame(0)])
        self.pcap(daemon, accepted["id"])
        self.assertEqual(daemon.stop(), 0)

    def test_http(self) -> None:
        """
        So is each by HTTP, and the answer says the same.
        """
        daemon = self.started()
        statuses = {
            Reason.MALFORMED: 400,
            Reason.TOO_LARGE: 413,
            "": 421,
        }
        messages = list(itertools.islice(itertools.cycle(_every()), STRANGE_HTTP))
        link = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE)
        self.addCleanup(link.close)
        for message, reason in messages:
            link.request(
                "POST", "/captures", message, {"Content-Type": "application/json"}
            )
            answer = link.getresponse()
            said = json.loads(answer.read())
            self.assertEqual(said["reason"], reason or "not-ours", message[:100])
            self.assertEqual(answer.status, statuses.get(reason, 422))
        reasons = [reason for _, reason in messages if reason]
        refused = daemon.waitForCount("rejected", len(reasons))
        self.assertEqual([event["reason"] for event in refused], reasons)
        daemon.arm(interface="vb")

    async def test_requests(self) -> None:
        """
        Many requests with different filters at once are all taken, and each
        capture has exactly its packets; the daemon answers meanwhile.
        """
        server, daemon = await self.listening()
        self.publish(
            server,
            # The lower half of a frame's sequence number.
            [
                request(bpf=f"ether[46:4] = {n}", packets=3, alertid=n)
                for n in range(REQUESTS)
            ],
        )
        running = 0
        while len(daemon.told("armed")) < REQUESTS:
            status, health = daemon.http("GET", "/healthz")
            self.assertEqual((status, health["status"]), (200, "ok"))
            self.assertGreaterEqual(health["running"], running)
            running = health["running"]
            self.assertEqual(daemon.told("failed") + daemon.told("rejected"), [])
        for _ in range(3):
            self.pair.send([frame(n) for n in range(REQUESTS)])
        ids = {event["alertid"]: event["id"] for event in daemon.told("armed")}
        self.assertEqual(len(ids), REQUESTS)
        daemon.waitForEvents("stored", ids.values())
        for n, id in ids.items():
            file = self.pcap(daemon, id)
            self.assertEqual([sequenceOf(x.data) for x in file.records], [n] * 3)


class FilterTests(DaemonTestCase):
    """
    Filters that are a trap.
    """

    def test_evil(self) -> None:
        """
        Filters that would keep libpcap busy, for ever or for long, or ask the
        DNS, are refused with the right reason; the daemon answers meanwhile and
        a good filter is taken after each.
        """
        daemon = self.started(general={"maxfilter": 100_000, "maxmessage": 1_000_000})
        hosts = [f"host 10.0.{n // 250}.{n % 250}" for n in range(1000)]
        with ThreadPoolExecutor(1) as executor:
            for n, (bpf, reason) in enumerate(
                [
                    (
                        "(ip[1]=1||ip[2]=1)&&!(ip[1]=2||ip[2]=2)",
                        Reason.TOO_COMPLEX,
                    ),
                    (" or ".join(hosts), Reason.TOO_COMPLEX),
                    ("host dead.example.com", Reason.BAD_FILTER),
                    ("net dead.example.com or port nowhere", Reason.BAD_FILTER),
                    ("ether host dead", Reason.BAD_FILTER),
                    ("(" * 50_000, Reason.BAD_FILTER),
                    ("not " * 20_000 + "udp", Reason.BAD_FILTER),
                    ("udp) or (tcp", Reason.BAD_FILTER),
                ]
            ):
                asked = executor.submit(
                    daemon.http,
                    "POST",
                    "/captures",
                    json.loads(request(bpf=bpf)),
                )
                polls = 0
                while not asked.done():
                    self.assertEqual(daemon.http("GET", "/healthz")[0], 200)
                    polls += 1
                status, answer = asked.result()
                self.assertEqual((status, answer["reason"]), (422, reason), bpf[:80])
                self.assertTrue(polls)
                daemon.arm(interface="vb", bpf=f"port {n + 1}")
