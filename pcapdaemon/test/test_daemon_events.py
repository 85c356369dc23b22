# See LICENSE for details.
"""
The whole daemon and the buses that its events go to.
"""

from __future__ import annotations

import base64
import http.client
import json
import signal
from collections import defaultdict
from collections.abc import Mapping
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

from pcapdaemon.test import eventschema
from pcapdaemon.test.allcase import SECRETS, HouseTestCase
from pcapdaemon.test.frames import frame
from pcapdaemon.test.process import Daemon
from pcapdaemon.test.subscribers import (
    Event,
    Hook,
    KafkaSubscriber,
    RedisSubscriber,
    SqsSubscriber,
    wait,
)

#: The steps of a capture that is stored, as they always come.
STEPS = ["accepted", "armed", "completed", "stored"]
#: Of the topic.
PARTITIONS = 3
CHANNEL, TOPIC, PATH = "capture.events", "capture-events", f"/{SECRETS['hook']}?q=1"


def verifier() -> Any:
    """
    What the documentation says how to verify a signature.
    """
    file = eventschema.SCHEMA.parent / "buses" / "verify_webhook.py"
    spec = spec_from_file_location("verify_webhook", file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.verify


class EventsTestCase(HouseTestCase):
    """
    Tests with a subscriber at each bus.
    """

    async def startBuses(self) -> dict[str, Any]:
        """
        Start all servers and subscribers.

        @return: The sections of a daemon that publishes to all of them.
        """
        await self.redis.start(password=SECRETS["redis"])
        await self.kafka.start()
        self.kafka.create(TOPIC, PARTITIONS)
        await self.startQueue()
        self.hook = Hook(self)
        self.hook.start()
        self.onRedis = RedisSubscriber(self, self.redis.port, CHANNEL, SECRETS["redis"])
        self.onKafka = KafkaSubscriber(self, self.kafka.port, TOPIC, PARTITIONS)
        self.onSqs = SqsSubscriber(self.sqs, self.queue)
        return {
            "redis": {
                "events": CHANNEL,
                "port": self.redis.port,
                "auth": SECRETS["redis"],
            },
            "kafka": {"events": TOPIC, "server": [f"127.0.0.1:{self.kafka.port}"]},
            "sqs": {
                "events": self.queue,
                "accessid": SECRETS["sqsid"],
                "accesskey": SECRETS["sqskey"],
            },
            "webhook": self.hookSection(),
        }

    def hookSection(self) -> dict[str, Any]:
        """
        What makes a daemon publish to the hook.
        """
        url = f"http://127.0.0.1:{self.hook.port}{PATH}"
        return {"url": url, "secret": SECRETS["signing"]}

    def capture(self, daemon: Daemon, count: int, **request: Any) -> list[str]:
        """
        Have captures of one packet, and wait until they are stored.

        @return: Their identifiers.
        """
        wanted = {"interface": "vb", "packets": 1, "timeout": 60, **request}
        ids = [id for _ in range(count) for id in daemon.ask(**wanted)]
        daemon.waitForEvents("armed", ids)
        self.pair.send([frame(count)])
        daemon.waitForEvents("stored", ids)
        return ids

    def arrived(self) -> dict[str, list[Event]]:
        """
        What each bus has brought until now.
        """
        self.onKafka.poll()
        self.onSqs.poll()
        return {
            "redis": self.onRedis.events,
            "kafka": self.onKafka.events,
            "sqs": self.onSqs.events,
            "webhook": self.hook.events,
        }

    def waitForAll(self, daemon: Daemon, again: bool = False) -> None:
        """
        Wait until all that is in the daemon's log has arrived on each bus, and see
        that it is the same, in the same order for each capture, and that each
        arrived once.

        @param again: Whether it may have been sent twice.
        """
        found: dict[str, list[Event]] = {}

        def complete() -> bool:
            for bus, events in self.arrived().items():
                found[bus] = once(events) if again else list(events)
            return all(len(each) >= len(daemon.events) for each in found.values())

        def missing() -> str:
            counts = {bus: len(events) for bus, events in found.items()}
            return f"{len(daemon.events)} in {counts}"

        wait(complete, missing)
        wanted = byCapture(daemon.events)
        for bus, events in found.items():
            self.assertEqual(byCapture(events), wanted, bus)
        for bus in ("redis", "webhook"):
            self.assertEqual(found[bus], daemon.events)
        for places in self.onKafka.places.values():
            self.assertEqual(len(places), 1)

    def assertSteps(self, events: list[Event], ids: list[str]) -> None:
        """
        See that the events of captures came in their order.
        """
        found = byCapture(events)
        for id in ids:
            self.assertEqual([event["event"] for event in found[id]], STEPS)

    def buses(self, daemon: Daemon) -> dict[str, Any]:
        """
        What the daemon says of its buses.
        """
        buses: dict[str, Any] = daemon.http("GET", "/healthz")[1]["buses"]
        return buses


def byCapture(events: list[Event]) -> dict[str, list[Event]]:
    """
    Events by their capture, in their order.
    """
    found: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        found[event["id"]].append(event)
    return found


def once(events: list[Event]) -> list[Event]:
    """
    Events without those that were there before.
    """
    return [event for n, event in enumerate(events) if event not in events[:n]]


class AllTests(EventsTestCase):
    """
    All buses at once.
    """

    async def test_all(self) -> None:
        """
        Every event arrives on each bus as it is in the log, those of a capture in
        their order, also those of the daemon's end; the webhook's signatures are
        right.
        """
        sections = await self.startBuses()
        daemon = self.started(**sections)
        ids = self.capture(daemon, 10, tags="a<b>&é", request_id="mine", alertid=7)
        status, _ = daemon.http("POST", "/captures", {"node": "any", "alias": "none"})
        self.assertEqual(status, 422)
        self.waitForAll(daemon)
        self.assertSteps(daemon.events, ids)
        told = len(daemon.events)
        for bus, state in self.buses(daemon).items():
            there = {"connected": True, "published": told, "waiting": 0, "dropped": 0}
            self.assertEqual(state, there, bus)

        last = daemon.arm(interface="vb", packets=10, timeout=60)
        self.pair.send([frame(1)])
        self.assertEqual(daemon.stop(), 0)
        self.assertSteps(daemon.events, [last])
        self.waitForAll(daemon)
        completed = byCapture(self.hook.events)[last][2]
        self.assertEqual(completed["stop"], "shutdown")

        verify = verifier()
        secret = base64.b64decode(SECRETS["signing"].removeprefix("whsec_"))
        names = {headers["webhook-id"] for _, headers, _ in self.hook.requests}
        self.assertEqual(len(names), told + 4)
        for path, headers, body in self.hook.requests:
            self.assertEqual(path, PATH)
            self.assertTrue(verify(headers, body, secret))
            self.assertFalse(verify(headers, body + b" ", secret))
            self.assertFalse(verify(headers, body, secret[1:]))
            self.assertFalse(verify(headers, body, secret, lambda: 1e9))

    async def test_outage(self) -> None:
        """
        When all buses are away captures are made and stored as ever, and what
        happened is told when the buses are back.
        """
        sections = await self.startBuses()
        daemon = self.started(**sections)
        before = self.capture(daemon, 2)
        self.waitForAll(daemon)
        await self.kafka.kill()
        await self.moto.kill()
        self.hook.kill()
        self.redis.pause()
        during = self.capture(daemon, 5)
        for place in ("SQS", "webhook"):
            daemon.waitForLine(f"cannot publish events to {place}")
        health = daemon.http("GET", "/healthz")[1]
        self.assertEqual(health["status"], "degraded")
        self.assertEqual({bus["dropped"] for bus in health["buses"].values()}, {0})

        self.redis.resume()
        self.hook.start()
        await self.moto.start(self.moto.port)
        self.sqs.create_queue(QueueName="myqueue")
        await self.kafka.start(self.kafka.port)
        self.kafka.create(TOPIC, PARTITIONS)
        self.onKafka.restart(self, self.kafka.port, TOPIC, PARTITIONS)
        after = self.capture(daemon, 1)
        self.waitForAll(daemon, again=True)
        self.assertSteps(daemon.events, [*before, *during, *after])
        self.assertEqual(daemon.http("GET", "/healthz")[1]["status"], "ok")
        self.assertEqual(daemon.stop(), 0)


class HookTests(EventsTestCase):
    """
    One bus that does as a test wants.
    """

    def hooked(self, **sections: Any) -> Daemon:
        """
        Start a daemon that publishes to a hook.
        """
        self.hook = Hook(self)
        self.hook.start()
        return self.started(webhook=self.hookSection(), **sections)

    def waitForHook(self, holds: Mapping[str, int], daemon: Daemon) -> None:
        """
        Wait until the daemon counts so much at the hook.
        """
        wait(
            lambda: holds.items() <= self.buses(daemon)["webhook"].items(),
            lambda: f"{holds} in {self.buses(daemon)}",
        )

    def test_retried(self) -> None:
        """
        What is answered with 500, or not at all, comes again, as what it was; what
        is not wanted does not, and is counted, for the subscriber, too.
        """
        daemon = self.hooked()
        self.hook.answers.extend([(500, {}), None, (503, {"Retry-After": "0"})])
        self.hook.answers.extend([(204, {}), (422, {})])
        [id] = self.capture(daemon, 1)
        self.waitForHook({"published": 3, "dropped": 1, "waiting": 0}, daemon)
        kinds = [event["event"] for event in self.hook.events]
        self.assertEqual(kinds, ["accepted", "completed", "stored"])
        self.assertEqual(self.hook.events[1]["missed"], 1)
        for event in self.hook.events:
            self.assertIsNone(eventschema.mistake(event))
        first = [headers["webhook-id"] for _, headers, _ in self.hook.requests][:4]
        self.assertEqual(len(set(first)), 1)
        said = daemon.waitForLine(f"an event of {id} cannot be published")
        self.assertIn("answered 422", said["message"])
        self.assertEqual(daemon.stop(), 0)

    def test_thousand(self) -> None:
        """
        Of a thousand captures at once every event arrives, in order, or is
        counted: for the daemon, and for a subscriber that is too slow.
        """
        daemon = self.hooked(events={"backlog": 300})
        self.hook.pause = 0.02
        request = {"node": "any", "interface": "vb", "packets": 1, "timeout": 60}
        link = http.client.HTTPConnection("127.0.0.1", daemon.port)
        self.addCleanup(link.close)
        ids = []
        for _ in range(1000):
            kind = {"Content-Type": "application/json"}
            link.request("POST", "/captures", json.dumps(request), kind)
            ids += json.loads(link.getresponse().read())["ids"]
        daemon.waitForEvents("armed", ids)
        self.pair.send([frame(1)])
        daemon.waitForEvents("stored", ids)
        self.hook.pause = 0
        self.waitForHook({"waiting": 0}, daemon)
        self.assertEqual(len(daemon.events), 4000)
        events, state = self.hook.events, self.buses(daemon)["webhook"]
        self.assertGreater(state["dropped"], 0)
        self.assertEqual(state["published"], len(events))
        self.assertEqual(state["published"] + state["dropped"], 4000)
        self.assertEqual(len(events) + sum(e.get("missed", 0) for e in events), 4000)
        # The same, but for gaps, each as long as it is said to be.
        place = 0
        for event in events:
            place += event.pop("missed", 0)
            self.assertEqual(event, daemon.events[place])
            place += 1
        self.assertEqual(daemon.stop(), 0)

    def test_reload(self) -> None:
        """
        A new address gets what the old one did not, and what happens from then on.
        """
        daemon = self.hooked()
        self.capture(daemon, 1)
        self.waitForHook({"published": 4}, daemon)
        old = self.hook
        old.kill()
        self.capture(daemon, 2)
        daemon.waitForLine("cannot publish events to webhook ")
        self.hook = Hook(self)
        self.hook.start()
        daemon.configure(webhook=self.hookSection())
        daemon.signal(signal.SIGHUP)
        daemon.waitForLine("configuration taken over")
        self.capture(daemon, 1)
        self.waitForHook({"published": 16, "waiting": 0, "dropped": 0}, daemon)
        self.assertEqual(old.events + self.hook.events, daemon.events)
        daemon.configure(webhook={"url": "", "secret": ""})
        daemon.signal(signal.SIGHUP)
        daemon.waitForLine("configuration taken over", 2)
        self.assertEqual(self.buses(daemon), {})
        self.assertEqual(daemon.stop(), 0)

    def test_progress(self) -> None:
        """
        C{progress} comes when it is asked for.
        """
        daemon = self.hooked(events={"progress": 1})
        id = daemon.arm(interface="vb", packets=2, timeout=60)
        wait(lambda: len(self.hook.events) > 2, lambda: str(self.hook.events))
        self.pair.send([frame(n) for n in range(2)])
        daemon.waitForEvent("stored", id)
        wait(lambda: self.hook.events[-1]["event"] == "stored", lambda: "stored")
        kinds = [event["event"] for event in self.hook.events]
        self.assertEqual([k for k in kinds if k != "progress"], STEPS)
        self.assertEqual(kinds.index("progress"), 2)
        for event in self.hook.events:
            self.assertIsNone(eventschema.mistake(event))

    def test_loop(self) -> None:
        """
        An event that comes as a message is for nobody: it would lead to others.
        """
        daemon = self.hooked()
        self.capture(daemon, 1)
        self.waitForHook({"published": 4}, daemon)
        for event in self.hook.events:
            status, answer = daemon.http("POST", "/captures", event)
            self.assertEqual((status, answer["reason"]), (421, "not-ours"))
        self.assertEqual(len(daemon.events), 4)
