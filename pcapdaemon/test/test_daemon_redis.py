# See LICENSE for details.
"""
The whole daemon and a Redis server that goes away and comes back.
"""

from __future__ import annotations

import json

from twisted.internet import reactor

from pcapdaemon.test.daemoncase import DaemonTestCase
from pcapdaemon.test.frames import frame
from pcapdaemon.test.process import Daemon
from pcapdaemon.test.servers import RedisServer, missing

#: How often the server is killed and started again.
RESTARTS = 5


class RedisTests(DaemonTestCase):
    """
    Requests by Redis.
    """

    skip = missing("redis-server")

    async def listening(self) -> tuple[RedisServer, Daemon]:
        """
        Start a server and a daemon that listens to it.
        """
        server = RedisServer(self, reactor)
        await server.start()
        return server, self.started(redis={"listen": True, "port": server.port})

    def capture(self, server: RedisServer, daemon: Daemon) -> None:
        """
        Publish a request, which must be taken once, and complete it.
        """
        before = len(daemon.told("armed"))
        request = {"node": "any", "interface": "vb", "packets": 1}
        self.assertEqual(server.publish("capture", json.dumps(request).encode()), 1)
        event = daemon.waitForCount("armed", before + 1)[before]
        self.pair.send([frame(before)])
        self.pcap(daemon, event["id"])
        self.assertEqual(len(daemon.told("accepted")), before + 1)

    def status(self, daemon: Daemon) -> tuple[int, str, bool]:
        """
        What the daemon says of itself: the status of the answer, the word, and
        whether Redis is there.
        """
        status, health = daemon.http("GET", "/healthz")
        return status, health["status"], health["listeners"]["redis"]

    async def test_restarted(self) -> None:
        """
        A server that dies and comes back, again and again, is subscribed to each
        time; in the end there is one connection. A capture that runs meanwhile is
        not touched.
        """
        server, daemon = await self.listening()
        running = daemon.arm(interface="vb", bpf="udp", packets=RESTARTS + 1)
        before = daemon.usage()
        self.capture(server, daemon)
        for n in range(RESTARTS):
            await server.kill()
            daemon.waitForLine("lost Redis", n + 1)
            self.assertEqual(self.status(daemon), (200, "degraded", False))
            await server.start(server.port)
            daemon.waitForLine("subscribed to ", n + 2)
            self.assertEqual(self.status(daemon), (200, "ok", True))
            self.capture(server, daemon)
        self.assertEqual(server.subscribers(), 1)
        self.assertEqual(len(self.pcap(daemon, running).records), RESTARTS + 1)
        daemon.waitForDescriptors(before.descriptors)
        self.assertLessEqual(daemon.usage().descriptors, before.descriptors)
        self.assertEqual(daemon.stop(), 0)

    async def test_frozen(self) -> None:
        """
        A server that says nothing any more is given up, and subscribed to again
        when it speaks.
        """
        server, daemon = await self.listening()
        server.pause()
        daemon.waitForLine("lost Redis")
        self.assertEqual(self.status(daemon), (200, "degraded", False))
        server.resume()
        daemon.waitForLine("subscribed to ", 2)
        self.capture(server, daemon)

    async def test_absent(self) -> None:
        """
        A daemon starts without its server, and ends without it.
        """
        server, daemon = await self.listening()
        daemon.stop()
        await server.kill()
        daemon.launch()
        daemon.waitForLine("cannot subscribe to Redis")
        await server.start(server.port)
        daemon.waitForLine("subscribed to ")
        self.capture(server, daemon)
        await server.kill()
        daemon.waitForLine("lost Redis")
        self.assertEqual(daemon.stop(), 0)
