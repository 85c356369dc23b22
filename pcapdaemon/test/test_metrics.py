# See LICENSE for details.
"""
Tests for L{pcapdaemon.metrics}.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as readOpenMetrics,
)
from prometheus_client.parser import text_string_to_metric_families as readText
from zope.interface import implementer
from zope.interface.verify import verifyObject

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon import metrics
from pcapdaemon.delivery import Delivery
from pcapdaemon.figures import BUSES, PUBLISHERS, SINKS
from pcapdaemon.intake import Intake
from pcapdaemon.interfaces import IEventObserver, IListener, StoreError
from pcapdaemon.listeners.http import HttpListener
from pcapdaemon.listeners.kafka import KafkaListener
from pcapdaemon.listeners.redis import RedisListener
from pcapdaemon.listeners.sqs import SqsListener
from pcapdaemon.metrics import Metrics
from pcapdaemon.publishers.kafka import KafkaPublisher
from pcapdaemon.publishers.redis import RedisPublisher
from pcapdaemon.publishers.sqs import SqsPublisher
from pcapdaemon.publishers.webhook import WebhookPublisher
from pcapdaemon.sinks.cloudshark import CloudsharkSink
from pcapdaemon.sinks.local import LocalSink
from pcapdaemon.sinks.s3 import S3Sink
from pcapdaemon.spool import Spool
from pcapdaemon.test.fixtures import RECORD, makeBench
from pcapdaemon.test.spooling import makeSealed
from pcapdaemon.test.test_intake import RULES
from pcapdaemon.testing import MemorySink

DOWN = StoreError("refused", True)


@implementer(IListener)
class _Bus(Service):
    def __init__(self, name: str, connected: bool) -> None:
        self.name = name
        self.connected = connected


class _Tests(SynchronousTestCase):
    """
    Tests that have metrics, and the parts of a daemon that these look at.
    """

    def setUp(self) -> None:
        self.bench = makeBench(self)
        bench, events = self.bench, self.bench.events
        self.intake = Intake(
            *("web1", RULES, bench.system, bench.checker, bench.captures),
            *(events, bench.clock),
        )
        self.local, self.s3 = MemorySink("local"), MemorySink("s3")
        sinks = [self.local, self.s3]
        self.delivery = Delivery(sinks, events, bench.reactor, lambda: 1.0)
        self.services: list[Service] = [_Bus("http", True), _Bus("redis", False)]
        self.metrics = self.make()

    def make(self) -> Metrics:
        """
        What counts from now on.
        """
        made = Metrics(
            self.bench.reactor.seconds,
            "memory",
            self.intake,
            self.bench.captures,
            self.delivery,
            lambda: self.services,
        )
        self.bench.events.add(made)
        return made

    def value(self, name: str, **labels: str) -> float | None:
        """
        One value, or nothing where there is no such series.
        """
        return self.metrics.registry.get_sample_value(f"pcapdaemon_{name}", labels)

    def values(self, name: str, by: str) -> dict[str, float]:
        """
        The series of a metric, without those that are 0, by one label.
        """
        return {
            sample.labels[by]: sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == f"pcapdaemon_{name}" and sample.value
        }

    def emit(self, event: str, id: str = "a", **fields: Any) -> None:
        """
        Let something happen.
        """
        self.bench.events.emit(event, id, {}, **fields)

    def complete(self, id: str = "a", sinks: Iterable[str] = ()) -> None:
        """
        Let a capture be completed.
        """
        dropped = {"kernel": 0, "interface": 0}
        fields = {"packets": 1, "bytes": 24 + RECORD, "dropped": dropped}
        self.emit("completed", id, stop="packets", sinks=list(sinks), **fields)

    def receive(self, bus: str = "redis", **fields: Any) -> None:
        """
        Let a message come.
        """
        message = json.dumps({"node": "any", "interface": "eth0", **fields})
        self.successResultOf(self.intake.receive(message.encode(), bus))


class EventTests(_Tests):
    """
    What is counted.
    """

    def test_interface(self) -> None:
        """It observes events, and the global registry has none of its metrics."""
        verifyObject(IEventObserver, self.metrics)
        names = {family.name for family in REGISTRY.collect()}
        self.assertEqual([name for name in names if "pcapdaemon" in name], [])

    def test_requests(self) -> None:
        """Messages count by bus, verdict and reason, each once."""
        self.receive(packets=1, timeout=5)
        self.receive(interface=["eth0", "lo9"], request_id="x")
        self.receive(interface="lo9")
        self.receive("http", packets=0)
        self.receive("http", node="web2")
        self.receive("http", node="web2")
        cancel = b'{"node": "any", "cancel": "%s"}'
        for name in (b"x", b"unknown"):
            self.successResultOf(self.intake.receive(cancel % name, "http"))
        self.successResultOf(self.intake.receive(b"{", "redis"))
        self.intake.oversized(1000, "redis")
        self.intake.unauthorized("http")
        found = {
            (
                sample.labels["bus"],
                sample.labels["verdict"],
                sample.labels["reason"],
            ): sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "pcapdaemon_requests_total" and sample.value
        }
        self.assertEqual(
            found,
            {
                ("redis", "taken", ""): 2,
                ("http", "taken", ""): 1,
                ("http", "not-ours", ""): 3,
                ("redis", "refused", "unknown-interface"): 1,
                ("redis", "refused", "malformed"): 1,
                ("redis", "refused", "too-large"): 1,
                ("http", "refused", "invalid"): 1,
                ("http", "refused", "unauthorized"): 1,
            },
        )

    def test_zeros(self) -> None:
        """
        What a bus that is there has not had yet is 0, so that the first one is
        an increase; what is not there has no series.
        """
        for labels in ({"verdict": "taken", "reason": ""}, _refused("busy")):
            self.assertEqual(self.value("requests_total", bus="http", **labels), 0)
            self.assertIsNone(self.value("requests_total", bus="sqs", **labels))
        self.assertEqual(self.value("captures_total", stop="memory"), 0)
        for name in ("stored", "spooled", "lost", "store_retries"):
            self.make()
            self.assertEqual(self.value(f"{name}_total", sink="s3"), 0)
            self.assertIsNone(self.value(f"{name}_total", sink="cloudshark"))

    def test_words(self) -> None:
        """Nothing from outside makes a series of its own."""
        for n in range(100):
            self.receive(f"bus{n}", node="web2")
            self.intake.oversized(1, f"bus{n}")
            self.emit("rejected", bus="http", reason=f"reason{n}", detail="no")
            self.emit("stored", sink=f"sink{n}", url="", filename="")
            self.emit(
                "completed",
                stop=f"stop{n}",
                packets=0,
                bytes=24,
                dropped={"kernel": 0, "interface": 0},
            )
        names = {
            value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            for value in sample.labels.values()
        }
        self.assertEqual([name for name in names if name[-2:] == "42"], [])
        self.assertEqual(self.values("stored_total", "sink"), {"other": 100})
        self.assertEqual(self.values("captures_total", "stop"), {"other": 100})
        foreign = {"bus": "other", "verdict": "not-ours", "reason": ""}
        self.assertEqual(self.value("requests_total", **foreign), 100)
        self.assertEqual(
            self.value("requests_total", bus="other", **_refused("too-large")), 100
        )

    def test_known(self) -> None:
        """Every listener, publisher and sink has a label of its own."""
        buses = (HttpListener, RedisListener, KafkaListener, SqsListener)
        self.assertEqual(BUSES, (*(each.name for each in buses), "trigger"))
        publishers = (RedisPublisher, KafkaPublisher, SqsPublisher, WebhookPublisher)
        self.assertEqual(PUBLISHERS, tuple(each.name for each in publishers))
        sinks = (LocalSink, CloudsharkSink, S3Sink)
        self.assertEqual(SINKS, tuple(each.name for each in sinks))

    def test_captures(self) -> None:
        """Captures that end count with what they hold and lack."""
        plan = self.bench.start(packets=3)
        self.bench.start(packets=9)
        [one, two] = self.bench.system.handles
        one._dropped, two._dropped = 4, 5
        self.bench.receive(0, 3)
        self.bench.captures.cancel("capture2")
        self.bench.pump()
        self.bench.settle()
        self.assertEqual(plan.id, "capture1")
        self.assertEqual(
            self.values("captures_total", "stop"), {"packets": 1, "cancelled": 1}
        )
        self.assertEqual(self.value("captured_packets_total"), 6)
        self.assertEqual(self.value("captured_bytes_total"), 2 * 24 + 6 * RECORD)
        self.assertEqual(
            self.value("dropped_packets_total", by="kernel"),
            sum(e["dropped"]["kernel"] for e in self.bench.observed.named("completed")),
        )
        self.assertEqual(self.value("dropped_packets_total", by="kernel"), 9)

    def test_failures(self) -> None:
        """So do those that fail, by the stage."""
        self.bench.system.setDown("eth0")
        self.bench.start()
        self.emit("failed", stage="decode", reason="no")
        self.emit("failed", stage="decode", reason="no")
        self.assertEqual(
            self.values("capture_failures_total", "stage"), {"capture": 1, "decode": 2}
        )


def _refused(reason: str) -> dict[str, str]:
    return {"verdict": "refused", "reason": reason}


class DurationTests(_Tests):
    """
    How long things take.
    """

    def steps(self) -> tuple[float | None, ...]:
        """How many durations of each kind there are, and their sums."""
        return tuple(
            self.value(f"{name}_seconds_{what}")
            for name in ("arming", "capture")
            for what in ("count", "sum")
        )

    def test_steps(self) -> None:
        """Each step is measured from the one before."""
        clock = self.bench.reactor
        self.emit("accepted", bus="http")
        clock.advance(0.02)
        self.emit("armed")
        self.assertEqual(self.steps(), (1, 0.02, 0, 0))
        self.assertEqual(self.value("arming_seconds_bucket", le="0.01"), 0)
        self.assertEqual(self.value("arming_seconds_bucket", le="0.025"), 1)
        clock.advance(7)
        self.complete(sinks=["local", "s3"])
        self.assertEqual(self.steps(), (1, 0.02, 1, 7))
        clock.advance(0.5)
        self.emit("stored", sink="local", url="")
        clock.advance(3)
        self.emit("stored", sink="s3", url="")
        self.assertEqual(self.value("upload_seconds_sum", sink="local"), 0.5)
        self.assertEqual(self.value("upload_seconds_sum", sink="s3"), 3.5)
        self.assertEqual(self.value("upload_seconds_count", sink="s3"), 1)

    def test_real(self) -> None:
        """So it is with a request that comes in, and a capture that is real."""
        clock = self.bench.reactor
        self.bench.opening.held = True
        self.receive(packets=1, timeout=5, duration=30)
        clock.advance(0.25)
        self.bench.opening.release()
        clock.advance(2)
        self.bench.receive(0, 1)
        self.assertEqual(self.steps(), (1, 0.25, 1, 2))

    def test_spooled(self) -> None:
        """What goes by the spool is no upload whose time says anything."""
        self.complete(sinks=["local", "s3"])
        self.emit("failed", stage="store", sink="s3", lost=False)
        self.bench.reactor.advance(1000)
        self.emit("stored", sink="s3", url="")
        self.emit("stored", sink="local", url="")
        self.assertEqual(self.value("upload_seconds_count", sink="s3"), 0)
        self.assertEqual(self.value("upload_seconds_sum", sink="local"), 1000)

    def test_unknown(self) -> None:
        """
        What began before anybody counted, or was said twice, has no duration; and
        a clock that is set back makes none that is negative.
        """
        self.emit("armed", "old")
        self.complete("older")
        self.emit("stored", "oldest", sink="s3", url="")
        self.emit("stored", "oldest", sink="s3", url="")
        self.assertEqual(self.steps(), (0, 0, 0, 0))
        self.assertEqual(self.value("upload_seconds_count", sink="s3"), 0)
        self.assertEqual(self.value("stored_total", sink="s3"), 2)
        self.bench.reactor.rightNow -= 100
        self.complete("old")
        self.assertEqual(self.steps(), (0, 0, 1, 0))

    def test_bounded(self) -> None:
        """Captures that never end are forgotten, the oldest first."""
        self.patch(metrics, "PENDING", 3)
        self.metrics = self.make()
        for n in range(5):
            self.emit("accepted", f"id{n}", bus="http")
        for n in reversed(range(5)):
            self.emit("armed", f"id{n}")
        self.assertEqual(self.value("arming_seconds_count"), 3)
        for n in range(5):
            self.complete(f"id{n}", sinks=["s3"])
        for n in range(5):
            self.emit("stored", f"id{n}", sink="s3", url="")
        self.assertEqual(self.value("upload_seconds_count", sink="s3"), 3)
        self.assertEqual(self.value("stored_total", sink="s3"), 5)

    def test_nothingLeft(self) -> None:
        """Nothing is remembered of captures that are over, however they ended."""
        for id in ("a", "b", "c", "d", "e"):
            self.emit("accepted", id, bus="http")
        self.emit("failed", "a", stage="capture", reason="no")
        for id in ("b", "c", "d", "e"):
            self.emit("armed", id)
        self.complete("b")
        for id in ("c", "d", "e"):
            self.complete(id, sinks=["local", "s3"])
            self.emit("failed", id, stage="store", sink="s3", lost=id == "c")
        self.emit("stored", "c", sink="local", url="")
        self.emit("stored", "d", sink="local", url="")
        self.emit("failed", "e", stage="decode", reason="no")
        self.assertEqual((len(self.metrics.since), len(self.metrics.uploads)), (0, 0))


class SinkTests(_Tests):
    """
    What becomes of files.
    """

    def deliver(self, id: str = "abc") -> Deferred[None]:
        """Hand a recording to the sinks."""
        return self.delivery.deliver(makeSealed(self, id))

    def test_retried(self) -> None:
        """A further attempt is a retry, of the one sink that needed it."""
        self.s3.failures.extend([DOWN, DOWN])
        delivered = self.deliver()
        self.assertEqual(self.values("store_retries_total", "sink"), {})
        self.bench.reactor.pump([1.0, 2.0])
        self.successResultOf(delivered)
        self.assertEqual(self.values("store_retries_total", "sink"), {"s3": 2})
        self.assertEqual(self.values("stored_total", "sink"), {"local": 1, "s3": 1})
        self.assertEqual(self.values("lost_total", "sink"), {})

    def test_lost(self) -> None:
        """What a sink will never have is lost there."""
        self.s3.failure = StoreError("no such bucket", False)
        self.successResultOf(self.deliver())
        self.delivery.sinks = ()
        self.successResultOf(self.deliver("def"))
        self.assertEqual(self.values("lost_total", "sink"), {"s3": 1, "other": 1})
        self.assertEqual(self.values("stored_total", "sink"), {"local": 1})

    def test_spooled(self) -> None:
        """
        What goes to the spool counts there, and its attempts are retries; it is
        stored in the end.
        """
        self.assertIsNone(self.value("spool_used_bytes"))
        bench = self.bench
        spool = Spool(
            *(self.mktemp(), 1 << 20, 1e6, bench.events, bench.work, bench.reactor),
            *(bench.clock, lambda: 1.0),
        )
        spool.sinks = self.delivery.sinks
        spool.startService()
        self.delivery.spool = spool
        spool.retries = self.delivery.retries
        self.s3.failure = DOWN
        self.delivery.close(0)  # at once
        self.successResultOf(self.deliver())
        self.assertEqual(self.values("spooled_total", "sink"), {"s3": 1})
        self.assertEqual(self.values("spool_files", "sink"), {"s3": 1})
        self.assertEqual(self.value("spool_files", sink="local"), 0)
        self.assertEqual(self.value("spool_used_bytes"), spool.used)
        self.assertGreater(spool.used, 0)
        self.assertEqual(self.value("spool_limit_bytes"), 1 << 20)
        self.assertEqual(self.values("store_retries_total", "sink"), {})
        bench.reactor.advance(1)
        self.assertEqual(self.values("store_retries_total", "sink"), {"s3": 1})
        self.s3.failure = None
        bench.reactor.advance(60)
        self.assertEqual(self.values("store_retries_total", "sink"), {"s3": 2})
        self.assertEqual(self.values("stored_total", "sink"), {"local": 1, "s3": 1})
        self.assertEqual(self.values("spool_files", "sink"), {})
        self.successResultOf(spool.stopService())


class PresentTests(_Tests):
    """
    What is looked up when somebody asks.
    """

    def test_room(self) -> None:
        """How much room there is, and how much of it is taken."""
        names = ("captures_running", "memory_used_bytes", "ring_used_bytes")
        self.assertEqual([self.value(name) for name in names], [0, 0, 0])
        self.bench.start(packets=200)
        self.bench.start(packets=200)
        self.bench.receive(0, 150)
        rings = [handle.options.buffersize for handle in self.bench.system.handles]
        self.assertEqual(self.value("captures_running"), 2)
        self.assertEqual(self.value("captures_limit"), 4)
        self.assertEqual(self.value("memory_limit_bytes"), 100 << 20)
        self.assertEqual(
            self.value("memory_used_bytes"), self.bench.captures.memory.used
        )
        self.assertGreater(self.bench.captures.memory.used, 0)
        self.assertEqual(self.value("ring_used_bytes"), sum(rings))
        self.assertEqual(self.value("ring_limit_bytes"), 1 << 30)
        self.bench.receive(150, 200)
        self.bench.settle()
        self.assertEqual([self.value(name) for name in names], [0, 0, 0])

    def test_buses(self) -> None:
        """Which buses are connected; those that are gone are gone."""
        self.assertEqual(self.value("bus_connected", bus="http"), 1)
        self.assertEqual(self.value("bus_connected", bus="redis"), 0)
        self.services.pop()
        self.assertIsNone(self.value("bus_connected", bus="redis"))

    def test_publishers(self) -> None:
        """Where events go, and what has become of them."""
        self.assertIsNone(self.value("publisher_connected", publisher="webhook"))
        url = "http://127.0.0.1:9/"
        publisher = WebhookPublisher(Clock(), self.bench.events, url)
        self.services.append(publisher)
        for id in ("a", "b", "c"):
            publisher.observe({"event": "accepted", "id": id})
        publisher.connected, publisher.published, publisher.dropped = True, 5, 2
        for name, value in (
            ("connected", 1),
            ("published_total", 5),
            ("dropped_total", 2),
            ("waiting", 3),
        ):
            found = self.value(f"publisher_{name}", publisher="webhook")
            self.assertEqual(found, value)
            self.assertIsNone(self.value(f"publisher_{name}", publisher="redis"))

    def test_texts(self) -> None:
        """Both text formats are what their parsers read, with the same numbers."""
        self.receive(packets=1, timeout=5)
        for accept, kind, read in (
            ("", "text/plain; version=0.0.4; charset=utf-8", readText),
            ("*/*", "text/plain; version=0.0.4; charset=utf-8", readText),
            ("application/openmetrics-text; version=x", "text/plain", readText),
            ("text/plain; version=\xff", "text/plain", readText),
            (
                "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                readOpenMetrics,
            ),
        ):
            body, told = self.metrics.exposition(accept)
            self.assertTrue(told.startswith(kind), told)
            values = {
                (sample.name, *sorted(sample.labels.items())): sample.value
                for family in read(body.decode())
                for sample in family.samples
            }
            self.assertEqual(values["pcapdaemon_captures_running",], 1)
            taken = ("bus", "redis"), ("reason", ""), ("verdict", "taken")
            self.assertEqual(values["pcapdaemon_requests_total", *taken], 1)
            self.assertGreater(values["process_resident_memory_bytes",], 1 << 20)
