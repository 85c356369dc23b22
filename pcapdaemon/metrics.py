# See LICENSE for details.
"""
What Prometheus wants to know: what has happened, counted as it happens, and what
is now, looked at when somebody asks.

Every label has one of few values, all of them words of this project: what comes
from outside never makes a new series.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder
from zope.interface import implementer

from twisted.application.service import IService

from pcapdaemon.figures import BUSES, REASONS, SINKS, STOPS, Present, word
from pcapdaemon.interfaces import IEventObserver

if TYPE_CHECKING:
    from pcapdaemon.capture.service import CaptureService
    from pcapdaemon.delivery import Delivery
    from pcapdaemon.intake import Intake

T = TypeVar("T")

#: The upper bounds of the histograms, in seconds.
ARMING = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
CAPTURE = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
UPLOAD = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

#: The most captures whose next step is awaited. Beyond that the oldest is
#: forgotten, and its duration is not counted.
PENDING = 10_000


class Pending(Generic[T]):
    """
    What is remembered of captures that are not over, within bounds.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[str, T] = {}

    def put(self, id: str, value: T) -> None:
        self._kept[id] = value
        if len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]

    def get(self, id: str) -> T | None:
        return self._kept.get(id)

    def pop(self, id: str) -> T | None:
        return self._kept.pop(id, None)

    def __len__(self) -> int:
        return len(self._kept)


@implementer(IEventObserver)
class Metrics:
    """
    Counts events, and looks at the daemon when it is asked.

    @ivar registry: Its own: another program's metrics are not in it.
    @ivar refused: How many messages were refused, by bus and reason.
    @ivar since: When the last step of a capture was.
    @ivar uploads: When a file was complete, and which sinks have not had it.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        engine: str,
        intake: Intake,
        captures: CaptureService,
        delivery: Delivery,
        services: Callable[[], Iterable[IService]],
    ) -> None:
        """
        @param clock: Seconds, since whenever.
        @param engine: What brings the packets.
        @param services: The listeners, sinks and other parts that run now.
        """
        self.registry = CollectorRegistry()
        # The first, since it shows counters that come after it.
        self.registry.register(
            Present(self, engine, intake, captures, delivery, services)
        )
        self.refused: Tally[tuple[str, str]] = Tally()
        self._clock = clock
        self.since: Pending[float] = Pending(PENDING)
        self.uploads: Pending[tuple[float, set[str]]] = Pending(PENDING)
        self._captures = self._counter(
            "captures", "Captures that ended, by what ended them.", "stop"
        )
        for stop in STOPS:
            self._captures.labels(stop)
        self._failures = self._counter(
            "capture_failures",
            "Captures that could not begin or go on, or be decoded.",
            "stage",
        )
        for stage in ("capture", "decode"):
            self._failures.labels(stage)
        self._packets = self._counter("captured_packets", "Packets in all files.")
        self._bytes = self._counter("captured_bytes", "Bytes of all files.")
        self._drops = self._counter(
            "dropped_packets", "Packets that captures should have had.", "by"
        )
        for by in ("kernel", "interface"):
            self._drops.labels(by)
        self._arming = self._histogram(
            "arming_seconds", "From accepted to armed: opening the device.", ARMING
        )
        self._duration = self._histogram(
            "capture_seconds", "From armed to completed.", CAPTURE
        )
        self._upload = self._histogram(
            "upload_seconds",
            "From completed to stored, where the spool was not needed.",
            UPLOAD,
            "sink",
        )
        self._stored = self._counter("stored", "Files that a sink took.", "sink")
        self._spooled = self._counter(
            "spooled", "Files that a sink did not take and the spool did.", "sink"
        )
        self._lost = self._counter("lost", "Files that a sink never got.", "sink")
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"pcapdaemon_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"pcapdaemon_{name}",
            text,
            labels,
            registry=self.registry,
            buckets=buckets,
        )

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """
        Everything, as it is now.

        @param accept: What the client said that it takes: the text format is for
            whoever does not ask for OpenMetrics.
        @return: The text and its content type.
        """
        try:
            encoder, kind = choose_encoder(accept)
        except (TypeError, ValueError):
            # A version that is no number.
            encoder, kind = choose_encoder("")
        return encoder(self.registry), kind

    def sink(self, name: str) -> None:
        """
        Show a sink's counters, before they count.
        """
        for counter in (self._stored, self._spooled, self._lost, self._upload):
            counter.labels(word(name, SINKS))

    # Events.

    def observe(self, event: Mapping[str, Any]) -> None:
        count = self._steps.get(event["event"])
        if count is not None:
            count(self, event["id"], event)

    def _rejected(self, id: str, event: Mapping[str, Any]) -> None:
        bus, reason = word(event["bus"], BUSES), word(event["reason"], REASONS)
        self.refused[bus, reason] += 1

    def _accepted(self, id: str, event: Mapping[str, Any]) -> None:
        self.since.put(id, self._clock())

    def _armed(self, id: str, event: Mapping[str, Any]) -> None:
        since, now = self.since.pop(id), self._clock()
        self.since.put(id, now)
        if since is not None:
            self._arming.observe(max(0.0, now - since))

    def _completed(self, id: str, event: Mapping[str, Any]) -> None:
        since, now = self.since.pop(id), self._clock()
        if since is not None:
            self._duration.observe(max(0.0, now - since))
        self._captures.labels(word(event["stop"], STOPS)).inc()
        self._packets.inc(event["packets"])
        self._bytes.inc(event["bytes"])
        for by in ("kernel", "interface"):
            self._drops.labels(by).inc(event["dropped"][by])
        if event.get("sinks"):
            self.uploads.put(id, (now, set(event["sinks"])))

    def _ofSink(self, event: Mapping[str, Any]) -> str:
        return word(event.get("sink", ""), SINKS)

    def _left(self, id: str, sink: str) -> float | None:
        """
        Nothing more is awaited of a sink.

        @return: When it could begin; L{None} where that was not awaited.
        """
        upload = self.uploads.get(id)
        if upload is None or sink not in upload[1]:
            return None
        began, sinks = upload
        sinks.discard(sink)
        if not sinks:
            self.uploads.pop(id)
        return began

    def _storedOne(self, id: str, event: Mapping[str, Any]) -> None:
        sink = self._ofSink(event)
        self._stored.labels(sink).inc()
        began = self._left(id, event["sink"])
        if began is not None:
            self._upload.labels(sink).observe(max(0.0, self._clock() - began))

    def _failed(self, id: str, event: Mapping[str, Any]) -> None:
        if event["stage"] != "store":
            self._failures.labels(word(event["stage"], ("capture", "decode"))).inc()
            self.since.pop(id)
            self.uploads.pop(id)
            return
        (self._lost if event["lost"] else self._spooled).labels(
            self._ofSink(event)
        ).inc()
        self._left(id, event.get("sink", ""))

    _steps: Mapping[str, Callable[[Metrics, str, Mapping[str, Any]], None]] = {
        "accepted": _accepted,
        "rejected": _rejected,
        "armed": _armed,
        "completed": _completed,
        "stored": _storedOne,
        "failed": _failed,
    }
