# See LICENSE for details.
"""
What a scrape of the whole daemon shows after real captures.
"""

from __future__ import annotations

import os
import signal
from http.client import HTTPConnection

from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as readOpenMetrics,
)
from prometheus_client.parser import text_string_to_metric_families as readText

from pcapdaemon import __version__
from pcapdaemon.test.daemoncase import DaemonTestCase
from pcapdaemon.test.frames import frame
from pcapdaemon.test.process import PATIENCE, Daemon
from pcapdaemon.test.servers import freePort

TOKEN = "0123456789abcdef"
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"

#: A metric and its labels to its value.
Values = dict[tuple[str | tuple[str, str], ...], float]


class ScrapeTests(DaemonTestCase):
    """
    C{GET /metrics}.
    """

    def scrape(self, daemon: Daemon, accept: str = "", token: str = "") -> Values:
        """
        Ask for everything.
        """
        headers = {"Accept": accept} if accept else {}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        link = HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE)
        try:
            link.request("GET", "/metrics", headers=headers)
            answer = link.getresponse()
            text = answer.read().decode()
        finally:
            link.close()
        self.assertEqual(answer.status, 200, text)
        kind = answer.headers["Content-Type"]
        self.assertTrue(kind.startswith((accept or "text/plain").split(";")[0]), kind)
        read = readOpenMetrics if accept else readText
        return {
            (
                sample.name.removeprefix("pcapdaemon_"),
                *sorted(sample.labels.items()),
            ): sample.value
            for family in read(text)
            for sample in family.samples
        }

    def found(self, values: Values, *names: str) -> Values:
        """
        Those of some metrics that are not 0.
        """
        return {key: each for key, each in values.items() if key[0] in names and each}

    def test_captures(self) -> None:
        """
        After captures, refusals and a sink that is away, everything has exactly
        the right numbers.
        """
        daemon = self.started(
            general={"maxpackets": 1000},
            cloudshark={
                "upload": True,
                "scheme": "http",
                "host": "127.0.0.1",
                "port": freePort(),
                "token": "a-token-of-cloudshark",
            },
            spool={"directory": "spool"},
            capture={"engine": "pcapy"},
        )
        before = self.scrape(daemon)
        self.assertEqual(before["captures_running",], 0)
        self.assertEqual(before["stored_total", ("sink", "local")], 0)
        full = [daemon.arm(interface="vb", packets=5) for _ in range(2)]
        running = daemon.arm(interface="vb", bpf="udp port 9", packets=9)
        empty = daemon.arm(interface="vb", bpf="port 7", duration=0.05)
        daemon.waitForEvent("completed", empty)
        self.pair.send([frame(n) for n in range(6)])
        completed = [daemon.waitForEvent("completed", id) for id in full]
        for fields in ({"packets": 1001}, {"interface": "none"}, {"packets": -1}):
            request = {"node": "any", "interface": "vb", **fields}
            self.assertEqual(daemon.http("POST", "/captures", request)[0], 422)
        self.assertEqual(daemon.http("POST", "/captures", b"{")[0], 400)
        for _ in range(3):
            request = {"node": "node-b", "interface": "vb"}
            self.assertEqual(daemon.http("POST", "/captures", request)[0], 421)
        daemon.waitForCount("stored", 2)
        daemon.waitForCount("failed", 2)
        watching = HTTPConnection("127.0.0.1", daemon.port)
        self.addCleanup(watching.close)
        watching.request("GET", "/events")
        self.assertEqual(watching.getresponse().status, 200)
        now = self.scrape(daemon)
        self.assertEqual(now["http_streams",], 1)
        self.assertEqual(now["captures_running",], 1)
        self.assertEqual(now["memory_limit_bytes",], 1 << 30)
        self.assertGreater(now["ring_used_bytes",], 0)
        self.assertEqual(daemon.http("DELETE", f"/captures/{running}")[0], 202)
        completed.append(daemon.waitForEvent("completed", running))
        daemon.waitForCount("stored", 3)
        daemon.waitForCount("failed", 3)

        now = self.scrape(daemon, OPENMETRICS)
        http, refused = ("bus", "http"), ("verdict", "refused")
        reasons = {"limit": 1, "unknown-interface": 1, "invalid": 1, "malformed": 1}
        self.assertEqual(
            self.found(now, "requests_total", "bus_connected"),
            {
                ("bus_connected", http): 1,
                ("requests_total", http, ("reason", ""), ("verdict", "taken")): 4,
                ("requests_total", http, ("reason", ""), ("verdict", "not-ours")): 3,
                **{
                    ("requests_total", http, ("reason", reason), refused): count
                    for reason, count in reasons.items()
                },
            },
        )
        self.assertEqual([event["packets"] for event in completed], [5, 5, 6])
        self.assertEqual(
            self.found(
                now,
                *("captures_total", "capture_failures_total", "lost_total"),
                *("captured_packets_total", "captured_bytes_total"),
                *("dropped_packets_total", "stored_total", "spooled_total"),
                *("arming_seconds_count", "capture_seconds_count"),
                *("upload_seconds_count", "captures_running", "spool_files"),
            ),
            {
                ("captures_total", ("stop", "packets")): 2,
                ("captures_total", ("stop", "cancelled")): 1,
                ("captures_total", ("stop", "duration")): 1,
                ("captured_packets_total",): 16,
                ("captured_bytes_total",): sum(event["bytes"] for event in completed),
                ("stored_total", ("sink", "local")): 3,
                ("spooled_total", ("sink", "cloudshark")): 3,
                ("arming_seconds_count",): 4,
                ("capture_seconds_count",): 4,
                ("upload_seconds_count", ("sink", "local")): 3,
                ("spool_files", ("sink", "cloudshark")): 3,
            },
        )
        # Those of the spool depend on time.
        self.assertGreaterEqual(now["store_retries_total", ("sink", "cloudshark")], 3)
        self.assertEqual(now["store_retries_total", ("sink", "local")], 0)
        # At least as long as the one that had a duration.
        self.assertGreater(now["capture_seconds_sum",], 0.05)
        self.assertGreater(now["spool_used_bytes",], 0)
        engine, version = ("engine", "pcapy"), ("version", __version__)
        self.assertEqual(now["build_info", engine, version], 1)
        started = now["process_start_time_seconds",]
        self.assertLess(abs(os.stat(f"/proc/{daemon.pid}").st_ctime - started), 60)
        self.assertEqual(daemon.stop(), 0)

    def test_reload(self) -> None:
        """
        With a token it is for those who know it; and a configuration that is
        taken over changes no number.
        """
        daemon = self.started(http={"token": TOKEN})
        for path in ("/metrics", "/metrics/"):
            self.assertEqual(daemon.http("GET", path)[0], 401)
        values = self.scrape(daemon, token=TOKEN)
        reason, refused = ("reason", "unauthorized"), ("verdict", "refused")
        key = ("requests_total", ("bus", "http"), reason, refused)
        self.assertEqual(values[key], 0)
        request = {"node": "any", "interface": "vb"}
        self.assertEqual(daemon.http("POST", "/captures", request)[0], 401)
        daemon.configure(http={"token": TOKEN[::-1]}, redis={"listen": True})
        daemon.configure(redis={"port": freePort(), "host": "127.0.0.1"})
        daemon.signal(signal.SIGHUP)
        daemon.waitForLine("configuration taken over")
        daemon.port = daemon.waitForLine("Listening for HTTP", 2)["port"]
        values = self.scrape(daemon, token=TOKEN[::-1])
        self.assertEqual(values[key], 1)
        self.assertEqual(values["bus_connected", ("bus", "redis")], 0)
        self.assertEqual(values["bus_connected", ("bus", "http")], 1)
        self.assertEqual(daemon.stop(), 0)
