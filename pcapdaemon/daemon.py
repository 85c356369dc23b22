# See LICENSE for details.
"""
The whole daemon as one service, for twistd and for any other Twisted program.
"""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock, gatherResults, maybeDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from pcapdaemon import __version__
from pcapdaemon.capture.capture import Threads
from pcapdaemon.capture.engines import NANO, makeSystem
from pcapdaemon.capture.filters import FilterChecker
from pcapdaemon.capture.packetlog import PacketLog
from pcapdaemon.capture.recording import Recording
from pcapdaemon.capture.service import CaptureService
from pcapdaemon.config import Settings
from pcapdaemon.config.triggers import makeAll
from pcapdaemon.delivery import Delivery
from pcapdaemon.events import Events, LogObserver
from pcapdaemon.history import History
from pcapdaemon.intake import Intake
from pcapdaemon.interfaces import (
    CaptureError,
    ICaptureSystem,
    IListener,
    IPublisher,
    ISink,
    PrivilegeError,
    StartError,
)
from pcapdaemon.kept import MOST, Shelf
from pcapdaemon.meaning import affordable, capacity, rules
from pcapdaemon.outcomes import Outcomes
from pcapdaemon.parts import PARTS, House
from pcapdaemon.pools import Pools
from pcapdaemon.progress import Progress
from pcapdaemon.spool import Spool
from pcapdaemon.triggers.service import Triggers

if TYPE_CHECKING:
    from pcapdaemon.metrics import Metrics

#: Seconds of C{grace} in which the last events go out.
_FLUSH = 2.0

#: Seconds that watchers have to hear of what is lost in the end.
_TOLD = 0.2

_PRIVILEGE = (
    "this process may not capture packets: it needs root or CAP_NET_RAW, for "
    "example with AmbientCapabilities=CAP_NET_RAW in a systemd unit, or with "
    "setpriv --reuid=USER --init-groups --inh-caps=+net_raw --ambient-caps=+net_raw "
    "twistd -n pcapdaemon ..."
)


class CaptureDaemon(Service):
    """
    A capture service with the listeners and sinks of its settings.

    A program that has a reactor and services of its own makes one, sets its
    parent, and hands requests to C{intake.receive}; listeners are optional::

        daemon = CaptureDaemon(reactor, Settings(general=GeneralSettings(...)))
        daemon.events.add(observer)
        daemon.setServiceParent(application)
        answer = await daemon.intake.receive(b'{"node": "any", ...}', "embedded")

    @ivar events: Where observers are added.
    @ivar intake: The L{IMessageReceiver<pcapdaemon.interfaces.IMessageReceiver>}
        of all listeners.
    @ivar history: The captures, running and over; an
        L{ICaptureControl<pcapdaemon.interfaces.ICaptureControl>}.
    @ivar progress: Where somebody says that C{progress} is wanted.
    @ivar settings: What is in force.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        system: ICaptureSystem | None = None,
        clock: Callable[[], float] = time.time,
        sinks: Sequence[Service] = (),
    ) -> None:
        """
        @param system: Where packets come from; this machine when L{None}.
        @param clock: Seconds since the epoch.
        @param sinks: Sinks beside those of the settings, which start and stop with
            it: each an L{ISink} with a name of its own.
        """
        self.setName("pcapdaemon")
        self.settings = settings
        self._reactor = reactor
        self._system = system = (
            makeSystem(settings.capture.engine) if system is None else system
        )
        self.node = settings.general.node or socket.gethostname()
        pools = self._pools = Pools(
            reactor,
            {
                "opening": system.openers,
                # Closing waits for the kernel, some 25 ms each, and for little else.
                "closing": 16,
                "draining": system.drainers,
                "work": 2,
                # One for each sink that blocks, so that none delays another.
                "local": 4,
                "s3": 4,
                "spool": 2,
                "names": 4,
                # One after the other, so that they stay in order.
                "kafka-events": 1,
                "sqs-events": 1,
            },
        )
        threads = Threads(
            pools.calling("opening"),
            pools.calling("closing"),
            pools.calling("draining"),
            pools.calling("work"),
        )
        self.events = Events(self.node, clock)
        self._checker = FilterChecker(reactor)
        self._packets = PacketLog(threads.work)
        self._delivery = Delivery((), self.events, reactor)
        self._shelf = Shelf()
        self._outcomes = Outcomes()
        self._captures = CaptureService(
            reactor,
            threads,
            system,
            self._checker,
            self.events,
            capacity(settings),
            self._packets.examine,
            self._deliver,
            clock,
            lambda: [sink.name for sink in self._delivery.sinks],
        )
        self.progress = Progress(reactor, self._captures)
        self.intake = Intake(
            self.node,
            rules(settings),
            system,
            self._checker,
            self._captures,
            self.events,
            clock,
        )
        self.history = History(self._captures, settings.capture.keep)
        self.events.add(self.history)
        self.events.add(self._outcomes)
        self.events.add(LogObserver())
        self._triggers = Triggers(
            self.intake, self.intake.refuse, clock, lambda: deferLater(reactor, 0)
        )
        self._house = House(
            reactor=reactor,
            node=self.node,
            events=self.events,
            intake=self.intake,
            history=self.history,
            shelf=self._shelf,
            devices=self._devices,
            progress=self.progress,
            health=self.health,
            metrics=lambda: self.metrics,
            triggers=self._triggers,
            threads=pools.calling,
        )
        #: What runs of L{PARTS}.
        self._parts: dict[str, Service] = {}
        #: Those of them that the settings want otherwise.
        self._stale: set[str] = set()
        self._sinks = sinks
        self._changing = DeferredLock()

    # What parts ask for.

    def _devices(self) -> Deferred[list[dict[str, Any]]]:
        def look() -> list[dict[str, Any]]:
            from pcapdaemon.capture.interfaces import describe  # takes its time

            return describe(self.intake.rules.aliases, self._system)

        return self._pools.calling("names")(look)

    def _deliver(self, recording: Recording) -> Deferred[None]:
        self._shelf.keep(recording)
        return self._delivery.deliver(recording)

    def _names(self, host: str) -> Deferred[list[str]]:
        look = self._pools.calling("names")
        d = look(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
        return d.addCallback(
            lambda found: list(dict.fromkeys(address[0] for *_, address in found))
        )

    # Life.

    def startService(self) -> None:
        """
        @raise StartError: It cannot run like this; the text says why.
        """
        try:
            self._system.check()
        except PrivilegeError:
            raise StartError(_PRIVILEGE) from None
        except CaptureError as error:
            raise StartError(str(error)) from None
        self._examine(self.settings)
        super().startService()
        self._pools.startService()
        self._checker.startService()
        self._captures.startService()
        self.progress.startService()
        self._configure(self.settings)
        for name, part in PARTS.items():
            self._begin(name, part.make(self.settings, self._house))
        for sink in self._sinks:
            self._begin(ISink(sink).name, sink)
        self._connect()
        self._log.info(
            "pcapdaemon {version} on {node}: {parts}, packets by {system}",
            version=__version__,
            node=self.node,
            parts=", ".join(self._parts),
            system=self._system.name,
        )

    def _examine(self, settings: Settings) -> None:
        """
        @raise StartError: It asks for what this machine does not have.
        """
        if capacity(settings).nanoseconds and not self._system.nanoseconds:
            raise StartError(
                f'[capture] precision: "{NANO}" is not to be had from the engine '
                f"{self._system.name}; it needs libpcap"
            )

    def stopService(self) -> Deferred[None]:
        """
        @return: Fires when all captures are over and stored, or C{grace} is.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._captures.close()
        self._packets.closing = True
        grace, publishers = self.settings.capture.grace, self.publishers
        # What happens at the very end has to be told, too.
        flush = min(_FLUSH, grace / 4) if publishers else 0.0
        work = Deferred.fromCoroutine(self._finish())
        work.addTimeout(grace - flush, self._reactor, lambda *_: self._late(grace))
        finished = await work
        for publisher in publishers:
            publisher.flush = flush
        ending = [maybeDeferred(p.stopService) for p in publishers]
        if not finished and (http := self._parts.get("http")) is not None:
            # Who watches shall hear what is lost, but nobody waits for them.
            told = maybeDeferred(http.stopService)
            ending.append(told.addTimeout(_TOLD, self._reactor, lambda *_: None))
        await gatherResults(ending)
        if (syslog := self._parts.get("syslog")) is not None:
            syslog.stopService()
        if finished:
            self._pools.stopService()

    async def _finish(self) -> bool:
        services = {
            name: service
            for name, service in self._parts.items()
            if name != "syslog" and service not in self.publishers
        }
        # HTTP is not among them: it shows what becomes of the captures.
        buses = [
            service
            for name, service in services.items()
            if IListener.providedBy(service) and name != "http"
        ]
        captures = self._captures.stopService()
        self.progress.stopService()
        self._delivery.close(self.settings.capture.grace / 2)
        await gatherResults([maybeDeferred(s.stopService) for s in buses])
        await captures
        for service in (*reversed(services.values()), self._checker):
            if service not in buses:
                await maybeDeferred(service.stopService)
        self._shelf.close()
        return True

    def _late(self, grace: float) -> bool:
        reason = f"not stored within grace = {grace} s"
        self._captures.abandon(reason)
        self._delivery.abandon(reason)
        self._log.error("gave up after grace = {grace} s", grace=grace)
        return False

    def reload(self, settings: Settings) -> Deferred[None]:
        """
        Go by other settings from now on. Running captures are not touched; a
        listener or sink whose section has changed is replaced, or kept as it
        was where the new one cannot start. The node's name stays.

        @return: Fires when everything has been replaced.
        """
        return self._changing.run(
            lambda: Deferred.fromCoroutine(self._replace(settings))
        )

    async def _replace(self, settings: Settings) -> None:
        changed = [
            name
            for name, part in PARTS.items()
            if name in self._stale or part.needs(settings) != part.needs(self.settings)
        ]
        try:
            self._examine(settings)
            # All of them before the first takes the place of an old one.
            made = {name: PARTS[name].make(settings, self._house) for name in changed}
        except StartError as error:
            self._log.error("not taken over: {error}", error=error)
            return
        for section, key in (("general", "node"), ("capture", "engine")):
            if getattr(getattr(settings, section), key) != getattr(
                getattr(self.settings, section), key
            ):
                self._log.warn(
                    "[{section}] {key} needs a restart", section=section, key=key
                )
        self._configure(settings)
        for name, service in made.items():
            old = self._parts.pop(name, None)
            inherits = IPublisher.providedBy(old) and service is not None
            if old is not None:
                if inherits:
                    IPublisher(old).keep()
                await maybeDeferred(old.stopService)
            if not self.running:
                return
            try:
                self._begin(name, service)
            except StartError as error:
                self._log.error("not taken over: {error}", error=error)
                self._stale.add(name)
                self._begin(name, old)
            else:
                self._stale.discard(name)
                if inherits:
                    IPublisher(service).inherit(IPublisher(old))
            self._connect()
        self._log.info("configuration taken over: {parts}", parts=list(self._parts))

    def _configure(self, settings: Settings) -> None:
        self.settings = settings
        self._triggers.configure(makeAll(settings.triggers))
        self.intake.rules = rules(settings)
        self._captures.configure(affordable(capacity(settings)))
        self.history.keep = settings.capture.keep
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._shelf.most = min(MOST, soft // 8)
        self._shelf.budget = settings.http.files if settings.http.listen else 0
        self.progress.every = settings.events.progress
        self._packets.always = settings.general.packetdebug
        self._packets.panic = settings.general.panic
        self._checker.resolver = self._names if settings.capture.resolve else None
        if self._delivery.spool is not None:
            self._delivery.spool.maxsize = settings.spool.maxsize
            self._delivery.spool.maxage = settings.spool.maxage

    def _begin(self, name: str, service: Service | None) -> None:
        if service is not None:
            service.startService()
            self._parts[name] = service

    def _connect(self) -> None:
        services = list(self._parts.values())
        sinks = [ISink(s) for s in services if ISink.providedBy(s)]
        self._delivery.sinks = sinks
        self._delivery.spool = spool = next(
            (s for s in services if isinstance(s, Spool)), None
        )
        if spool is not None:
            # One spool may take the place of another; what is counted goes on.
            spool.retries = self._delivery.retries
            spool.sinks = sinks
        self.intake.examine = [sink.examine for sink in sinks]

    # What others want to know.

    @cached_property
    def metrics(self) -> Metrics:
        """
        The figures for Prometheus. Whoever asks first makes them, and what
        happened before is not in all of them.
        """
        from pcapdaemon.metrics import Metrics  # which takes its time

        metrics = Metrics(
            self._reactor.seconds,
            self._system.name,
            self.intake,
            self._captures,
            self._delivery,
            self._parts.values,
        )
        self.events.add(metrics)
        return metrics

    @property
    def publishers(self) -> list[Any]:
        """
        Where events go besides the log; each an
        L{IPublisher<pcapdaemon.interfaces.IPublisher>}.
        """
        return [s for s in self._parts.values() if IPublisher.providedBy(s)]

    def health(self) -> dict[str, Any]:
        """
        C{GET /healthz}.
        """
        listeners = {
            listener.name: listener.connected
            for service in self._parts.values()
            if (listener := IListener(service, None)) is not None
        }
        buses = {
            publisher.name: {
                "connected": publisher.connected,
                "published": publisher.published,
                "waiting": publisher.waiting,
                "dropped": publisher.dropped,
            }
            for publisher in self.publishers
        }
        memory = self._captures.memory
        connected = [*listeners.values(), *(bus["connected"] for bus in buses.values())]
        return {
            "status": "ok" if all(connected) else "degraded",
            "version": __version__,
            "node": self.node,
            "running": self._captures.active,
            "memory": {"used": memory.used, "total": memory.total},
            "listeners": listeners,
            "sinks": self._outcomes.summary(sink.name for sink in self._delivery.sinks),
            "buses": buses,
            "spool": spool.waiting if (spool := self._delivery.spool) else {},
        }
