# See LICENSE for details.
"""
The whole daemon: what those see who watch and ask by HTTP.
"""

from __future__ import annotations

import http.client
import json
import signal
import socket
from hashlib import sha256
from typing import Any
from unittest import TestCase

from pcapdaemon.test.daemoncase import DaemonTestCase
from pcapdaemon.test.eventschema import mistake
from pcapdaemon.test.frames import frame
from pcapdaemon.test.process import PATIENCE, Daemon


class Stream:
    """
    One who watches, as long as the test lasts.

    @ivar last: The C{id} of the last event.
    """

    def __init__(
        self, case: TestCase, daemon: Daemon, query: str = "", **headers: str
    ) -> None:
        self.last = ""
        link = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE)
        case.addCleanup(link.close)
        link.request("GET", f"/events{query}", headers=headers)
        self._answer = link.getresponse()
        assert self._answer.status == 200, self._answer.status
        case.addCleanup(self._answer.close)
        # The greeting: from here on nothing is missed.
        while self._answer.readline().strip():
            pass

    def next(self) -> dict[str, Any] | None:
        """
        The next event; L{None} where there will be none.
        """
        found: dict[str, Any] = {}
        while line := self._answer.readline().decode("ascii").rstrip("\n"):
            key, _, value = line.partition(": ")
            if key == "id":
                self.last = value
            if key == "data":
                found = json.loads(value)
            if key == "event":
                kind = value
        if found:
            assert found["event"] == kind
            assert mistake(found) is None, mistake(found)
        return found or None

    def until(self, kind: str) -> list[dict[str, Any]]:
        """
        All events until one of that kind has come.
        """
        found: list[dict[str, Any]] = []
        while not found or found[-1]["event"] != kind:
            event = self.next()
            assert event is not None, f"no {kind} among {found}"
            found.append(event)
        return found


class WatchTests(DaemonTestCase):
    """
    A capture as it is seen from outside.
    """

    def get(self, daemon: Daemon, path: str) -> http.client.HTTPResponse:
        """
        What is there, not yet read.
        """
        link = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE)
        self.addCleanup(link.close)
        link.request("GET", path)
        answer = link.getresponse()
        self.addCleanup(answer.close)
        return answer

    def test_capture(self) -> None:
        """
        Who watches a request sees all of it, in order, and has the file when the
        capture is complete; who was away gets the rest.
        """
        daemon = self.started(http={"files": 1_000_000})
        watcher = Stream(self, daemon, "?request_id=r1")
        daemon.arm(interface="vb", request_id="r2")
        id = daemon.arm(interface="vb", packets=2, request_id="r1")
        # Nothing happens, and so something is told of it.
        told = watcher.until("progress")
        self.assertEqual(
            [(event["event"], event["id"]) for event in told],
            [("accepted", id), ("armed", id), ("progress", id)],
        )
        armed = watcher.last
        self.pair.send([frame(1), frame(2)])
        told = watcher.until("completed")
        self.assertEqual({event["id"] for event in told}, {id})
        self.assertEqual(told[-1]["sinks"], ["local"])
        answer = self.get(daemon, f"/captures/{id}/file")
        content = answer.read()
        digest = sha256(content).hexdigest()
        self.assertEqual(digest, told[-1]["sha256"])
        self.assertEqual(answer.headers["ETag"], f'"{digest}"')
        self.assertEqual(answer.headers["Content-Length"], str(told[-1]["bytes"]))
        self.assertIn(told[-1]["filename"], answer.headers["Content-Disposition"])
        self.assertEqual(watcher.until("stored")[-1]["sink"], "local")
        again = Stream(self, daemon, "?request_id=r1", **{"Last-Event-ID": armed})
        self.assertEqual(
            [event["event"] for event in again.until("stored")],
            ["completed", "stored"],
        )
        self.assertEqual(daemon.stored(id).read_bytes(), content)
        self.assertEqual(
            daemon.http("GET", "/healthz")[1]["sinks"],
            {"local": {"stored": 1, "failed": 0, "state": "ok"}},
        )
        daemon.configure(http={"files": 100})
        daemon.signal(signal.SIGHUP)
        daemon.waitForLine("configuration taken over")
        self.assertEqual(daemon.http("GET", f"/captures/{id}/file")[0], 404)
        # The listener has not been touched: they still watch.
        daemon.http("DELETE", f"/captures/{daemon.told('armed')[0]['id']}")
        self.assertEqual(daemon.http("POST", "/captures", b"[]")[0], 400)
        daemon.ask(interface="vb", duration=0.001, request_id="r1")
        self.assertEqual(watcher.until("completed")[-1]["packets"], 0)

    def test_ask(self) -> None:
        """
        What there is to capture on, whether a filter would be taken, and what was
        refused.
        """
        daemon = self.started(
            capture={"filter": "not port 22"},
            interface=[{"name": "vb", "alias": ["main"]}],
        )
        status, answer = daemon.http("GET", "/interfaces")
        self.assertEqual(status, 200)
        devices = {device["name"]: device for device in answer["interfaces"]}
        self.assertEqual(set(devices), {"any", "lo", "vb"})
        self.assertEqual(
            devices["vb"],
            {
                "name": "vb",
                "aliases": ["main"],
                "link": 1,
                "linkname": "EN10MB",
                "addresses": [],
                "up": True,
                "capture": True,
            },
        )
        for wanted, code in (
            ({"alias": "main", "bpf": "udp"}, 200),
            ({"interface": "vb", "bpf": "host"}, 422),
            ({"interface": "none"}, 422),
        ):
            status, answer = daemon.http("POST", "/filters", wanted)
            self.assertEqual(status, code, answer)
            if code == 200:
                self.assertEqual(
                    answer["links"][0]["filter"], "(not port 22) and (udp)"
                )
        self.assertEqual(daemon.events, [])
        daemon.http("POST", "/captures", {"node": "any", "interface": "none"})
        status, answer = daemon.http("GET", "/refusals")
        self.assertEqual((status, answer["refusals"]), (200, daemon.told("rejected")))
        self.assertEqual(answer["refusals"][0]["reason"], "unknown-interface")

    def test_end(self) -> None:
        """
        Those who watch, also one who never reads, keep the daemon from nothing:
        it ends as it does without them, and they hear how.
        """
        daemon = self.started()
        watchers = [Stream(self, daemon) for _ in range(3)]
        daemon.arm(interface="vb")
        for watcher in watchers[:2]:
            watcher.until("armed")
        self.assertEqual(daemon.stop(), 0)
        for watcher in watchers[:2]:
            watcher.until("completed")  # that is, what has become of it
            while watcher.next() is not None:
                pass
        self.assertEqual(daemon.told("completed")[0]["stop"], "shutdown")

    def test_lost(self) -> None:
        """
        They also hear of what is lost because there was not enough time.
        """
        server = socket.create_server(("127.0.0.1", 0))  # which never answers
        self.addCleanup(server.close)
        daemon = self.started(
            general={"writelocal": False},
            cloudshark={
                "upload": True,
                "scheme": "http",
                "host": "127.0.0.1",
                "port": server.getsockname()[1],
                "token": "a-token-of-cloudshark",
            },
            capture={"grace": 0.2},
        )
        watcher = Stream(self, daemon)
        id = daemon.arm(interface="vb", packets=1)
        self.pair.send([frame(0)])
        daemon.waitForEvent("completed", id)
        self.assertEqual(daemon.stop(), 0)
        failed = watcher.until("failed")[-1]
        self.assertEqual((failed["sink"], failed["lost"]), ("cloudshark", True))
        self.assertIsNone(watcher.next())
