# See LICENSE for details.
"""
What is now, as Prometheus wants to know it: looked up when somebody asks.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from twisted.application.service import IService

from pcapdaemon import __version__
from pcapdaemon.interfaces import IListener, IPublisher, Reason, Stop, Verdict
from pcapdaemon.listeners.http import HttpListener

if TYPE_CHECKING:
    from pcapdaemon.capture.service import CaptureService
    from pcapdaemon.delivery import Delivery
    from pcapdaemon.intake import Intake
    from pcapdaemon.metrics import Metrics

#: The values of labels; whatever else there is, in a program that embeds the
#: daemon for instance, counts as C{other}.
BUSES = ("http", "redis", "kafka", "sqs", "trigger")
PUBLISHERS = ("redis", "kafka", "sqs", "webhook")
SINKS = ("local", "cloudshark", "s3")
REASONS = tuple(value for name, value in vars(Reason).items() if name.isupper())
STOPS = tuple(value for name, value in vars(Stop).items() if name.isupper())
OTHER = "other"

#: The values of a metric's labels, and its value with these.
Values = Mapping[tuple[str, ...], float]


def word(value: str, words: Collection[str]) -> str:
    """
    A value for a label: the word itself, if it is one of ours.
    """
    return value if value in words else OTHER


class Present(Collector):
    """
    What is now, and what others count.
    """

    def __init__(
        self,
        metrics: Metrics,
        engine: str,
        intake: Intake,
        captures: CaptureService,
        delivery: Delivery,
        services: Callable[[], Iterable[IService]],
    ) -> None:
        self._metrics = metrics
        self._engine = engine
        self._intake = intake
        self._captures = captures
        self._delivery = delivery
        self._services = services

    def collect(self) -> Iterator[Metric]:
        """
        In the reactor thread.
        """
        services = list(self._services())
        yield _gauge(
            "build_info",
            "Always 1: the version, and what brings the packets.",
            {(__version__, self._engine.partition(" ")[0]): 1},
            "version",
            "engine",
        )
        buses = {x.name: x.connected for x in map(_listener, services) if x}
        yield self._requests(buses)
        yield _gauge(
            "bus_connected",
            "Whether a message published now would arrive.",
            {(word(bus, BUSES),): connected for bus, connected in buses.items()},
            "bus",
        )
        yield from self._room()
        yield from self._sinks()
        yield from self._watching(services)

    def _requests(self, buses: Iterable[str]) -> Metric:
        found: Tally[tuple[str, ...]] = Tally()
        for bus in buses:
            for verdict in (Verdict.TAKEN, Verdict.NOT_OURS):
                found[word(bus, BUSES), verdict.value, ""] = 0
            for reason in REASONS:
                found[word(bus, BUSES), Verdict.REFUSED.value, reason] = 0
        for verdict, by in (
            (Verdict.TAKEN, self._intake.taken),
            (Verdict.NOT_OURS, self._intake.foreign),
        ):
            for bus, count in by.items():
                found[word(bus, BUSES), verdict.value, ""] += count
        for (bus, reason), count in self._metrics.refused.items():
            found[bus, Verdict.REFUSED.value, reason] += count
        return _counter(
            "requests",
            "Messages by what became of them.",
            found,
            *("bus", "verdict", "reason"),
        )

    def _room(self) -> Iterator[Metric]:
        captures = self._captures
        for name, text, value in (
            ("captures_running", "Captures that run now.", captures.active),
            ("captures_limit", "Captures that may run at once.", captures.most),
            (
                "memory_used_bytes",
                "Bytes of recordings, running or waiting for sinks.",
                captures.memory.used,
            ),
            (
                "memory_limit_bytes",
                "Bytes that recordings may have.",
                captures.memory.total,
            ),
            ("ring_used_bytes", "Bytes of kernel rings.", captures.rings.used),
            (
                "ring_limit_bytes",
                "Bytes that kernel rings may have.",
                captures.rings.total,
            ),
        ):
            yield _gauge(name, text, {(): value})

    def _watching(self, services: Iterable[IService]) -> Iterator[Metric]:
        publishers: dict[tuple[str, ...], Any] = {}
        streams = 0
        for service in services:
            if (publisher := IPublisher(service, None)) is not None:
                publishers[(word(publisher.name, PUBLISHERS),)] = publisher
            elif isinstance(service, HttpListener):
                streams += service.streams
        for make, name, text, attribute in (
            (_gauge, "connected", "Whether events arrive there.", "connected"),
            (_counter, "published", "Events that have arrived.", "published"),
            (_counter, "dropped", "Events that never will.", "dropped"),
            (_gauge, "waiting", "Events that have yet to arrive.", "waiting"),
        ):
            values = {at: getattr(each, attribute) for at, each in publishers.items()}
            yield make(f"publisher_{name}", text, values, "publisher")
        yield _gauge(
            "http_streams",
            "Streams of events and downloads that are open.",
            {(): streams},
        )

    def _sinks(self) -> Iterator[Metric]:
        sinks = [sink.name for sink in self._delivery.sinks]
        for sink in sinks:
            self._metrics.sink(sink)
        spool = self._delivery.spool
        yield _counter(
            "store_retries",
            "Further attempts at a sink, from memory or from the spool.",
            _bySink(sinks, self._delivery.retries),
            "sink",
        )
        waiting: Values = {}
        used: Values = {}
        limit: Values = {}
        if spool is not None:
            waiting = _bySink(sinks, spool.waiting)
            used, limit = {(): spool.used}, {(): spool.maxsize}
        yield _gauge("spool_files", "Files in the spool.", waiting, "sink")
        yield _gauge("spool_used_bytes", "Bytes in the spool.", used)
        yield _gauge("spool_limit_bytes", "Bytes that the spool may have.", limit)


def _listener(service: object) -> Any:
    return IListener(service, None)


def _bySink(sinks: Iterable[str], counts: Mapping[str, int]) -> Values:
    found: Tally[tuple[str, ...]] = Tally()
    for sink in sinks:
        found[(word(sink, SINKS),)] = 0
    for sink, count in counts.items():
        found[(word(sink, SINKS),)] += count
    return found


def _filled(metric: Any, values: Values) -> Metric:
    for labels, value in values.items():
        metric.add_metric(labels, value)
    return metric  # type: ignore[no-any-return]


def _gauge(name: str, text: str, values: Values, *labels: str) -> Metric:
    return _filled(GaugeMetricFamily(f"pcapdaemon_{name}", text, labels=labels), values)


def _counter(name: str, text: str, values: Values, *labels: str) -> Metric:
    return _filled(
        CounterMetricFamily(f"pcapdaemon_{name}", text, labels=labels), values
    )
