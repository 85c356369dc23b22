# See LICENSE for details.
"""
From a section of the settings to the listener, publisher, sink or log that it
calls for.

Libraries that are slow to import, or install a reactor when they are, are
imported only where a section is on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from pcapdaemon.config import Settings
from pcapdaemon.events import Events
from pcapdaemon.intake import Intake
from pcapdaemon.interfaces import ICaptureControl, ITriggers, StartError
from pcapdaemon.kept import Shelf
from pcapdaemon.log import SyslogObserver, SyslogService
from pcapdaemon.progress import Progress
from pcapdaemon.sinks.local import LocalSink
from pcapdaemon.spool import Spool

if TYPE_CHECKING:
    from pcapdaemon.metrics import Metrics


@attrs.frozen
class House:
    """
    What parts are given.

    @ivar reactor: The reactor.
    @ivar node: The host name.
    @ivar events: What happens.
    @ivar intake: What listeners hand messages to.
    @ivar history: The captures.
    @ivar shelf: The files of the last captures.
    @ivar devices: Describes the devices of this machine.
    @ivar progress: Where somebody says that C{progress} is wanted.
    @ivar health: The state of the daemon.
    @ivar metrics: Its figures; they count from the first call on.
    @ivar triggers: What alerts are handed to.
    @ivar threads: The name of a pool to what calls a function in it.
    """

    reactor: Any
    node: str
    events: Events
    intake: Intake
    history: ICaptureControl
    shelf: Shelf
    devices: Callable[[], Deferred[list[dict[str, Any]]]]
    progress: Progress
    health: Callable[[], dict[str, Any]]
    metrics: Callable[[], Metrics]
    triggers: ITriggers
    threads: Callable[[str], Callable[..., Deferred[Any]]]


def _syslog(settings: Settings, house: House) -> Service | None:
    if settings.syslog is None:
        return None
    observer = SyslogObserver(settings.syslog.priority, settings.syslog.tag)
    return SyslogService(observer, globalLogPublisher)


def _publishing(settings: Settings, house: House) -> dict[str, Any]:
    """
    What every publisher is made of.
    """
    return {
        "reactor": house.reactor,
        "events": house.events,
        "backlog": settings.events.backlog,
        "progress": settings.events.progress,
    }


def _redisEvents(settings: Settings, house: House) -> Service | None:
    redis = settings.redis
    if not redis.events:
        return None
    from pcapdaemon.publishers.redis import RedisPublisher

    try:
        return RedisPublisher(
            channel=redis.events,
            host=redis.host,
            port=redis.port,
            username=redis.username,
            password=redis.auth,
            tls=redis.tls,
            cafile=redis.cafile,
            **_publishing(settings, house),
        )
    except (OSError, ValueError) as error:
        raise StartError(f"[redis] cafile: {redis.cafile}: {error}") from None


def _kafkaEvents(settings: Settings, house: House) -> Service | None:
    kafka = settings.kafka
    if not kafka.events:
        return None
    from pcapdaemon.publishers.kafka import KafkaPublisher

    try:
        return KafkaPublisher(
            topic=kafka.events,
            inThread=house.threads("kafka-events"),
            servers=kafka.server,
            security=kafka.security,
            cafile=kafka.cafile,
            username=kafka.username,
            password=kafka.password,
            mechanism=kafka.mechanism,
            **_publishing(settings, house),
        )
    except OSError as error:
        raise StartError(f"[kafka] cafile: {kafka.cafile}: {error}") from None


def _sqsEvents(settings: Settings, house: House) -> Service | None:
    sqs = settings.sqs
    if not sqs.events:
        return None
    from pcapdaemon.publishers.sqs import SqsPublisher

    return SqsPublisher(
        url=sqs.events,
        inThread=house.threads("sqs-events"),
        region=sqs.region,
        accessid=sqs.accessid,
        accesskey=sqs.accesskey,
        endpoint=sqs.endpoint,
        **_publishing(settings, house),
    )


def _webhook(settings: Settings, house: House) -> Service | None:
    webhook = settings.webhook
    if not webhook.url:
        return None
    from pcapdaemon.publishers.webhook import WebhookPublisher

    try:
        return WebhookPublisher(
            url=webhook.url,
            secret=webhook.secret,
            timeout=webhook.timeout,
            cafile=webhook.cafile,
            **_publishing(settings, house),
        )
    except (OSError, ValueError) as error:
        raise StartError(f"[webhook] cafile: {webhook.cafile}: {error}") from None


def _spool(settings: Settings, house: House) -> Service | None:
    spool = settings.spool
    if not spool.directory:
        return None
    return Spool(
        spool.directory,
        spool.maxsize,
        spool.maxage,
        house.events,
        house.threads("spool"),
        house.reactor,
    )


def _local(settings: Settings, house: House) -> Service | None:
    if not settings.general.writelocal:
        return None
    return LocalSink(settings.general.localdir, house.node, house.threads("local"))


def _cloudshark(settings: Settings, house: House) -> Service | None:
    cloudshark = settings.cloudshark
    if not cloudshark.upload:
        return None
    from pcapdaemon.sinks.cloudshark import CloudsharkSink

    return CloudsharkSink(
        house.reactor,
        host=cloudshark.host,
        scheme=cloudshark.scheme,
        port=cloudshark.port,
        token=cloudshark.token,
        timeout=cloudshark.timeout,
        cafile=cloudshark.cafile,
        verify=cloudshark.verify,
        proxy=cloudshark.proxy,
    )


def _s3(settings: Settings, house: House) -> Service | None:
    s3 = settings.s3
    if not s3.upload:
        return None
    from pcapdaemon.sinks.s3 import S3Sink

    return S3Sink(
        house.reactor,
        house.threads("s3"),
        bucket=s3.bucket,
        folder=s3.folder,
        region=s3.region,
        endpoint=s3.endpoint,
        accessid=s3.accessid,
        accesskey=s3.accesskey,
        acl=s3.acl,
        encryption=s3.encryption,
        allow=s3.allow,
        endpoints=s3.endpoints,
        cafile=s3.cafile,
    )


def _http(settings: Settings, house: House) -> Service | None:
    http = settings.http
    if not http.listen:
        return None
    from pcapdaemon.listeners.http import Feed, HttpListener, Served

    served = Served(
        house.intake,
        house.history,
        house.health,
        Feed(house.events, house.progress.watch, house.reactor),
        house.shelf,
        house.devices,
        house.intake.judge,
        limits=lambda: attrs.asdict(house.intake.rules.limits),
        exposition=house.metrics().exposition,
        triggers=house.triggers,
    )
    return HttpListener(house.reactor, http.host, http.port, http.token, served)


def _redis(settings: Settings, house: House) -> Service | None:
    redis = settings.redis
    if not redis.listen:
        return None
    from pcapdaemon.listeners.redis import RedisListener

    try:
        return RedisListener(
            house.reactor,
            house.intake,
            host=redis.host,
            port=redis.port,
            channel=redis.channel,
            username=redis.username,
            password=redis.auth,
            tls=redis.tls,
            cafile=redis.cafile,
        )
    except (OSError, ValueError) as error:
        raise StartError(f"[redis] cafile: {redis.cafile}: {error}") from None


def _kafka(settings: Settings, house: House) -> Service | None:
    kafka = settings.kafka
    if not kafka.listen:
        return None
    from pcapdaemon.listeners.kafka import KafkaListener

    try:
        return KafkaListener(
            house.reactor,
            house.intake,
            servers=kafka.server,
            topic=kafka.topic,
            security=kafka.security,
            cafile=kafka.cafile,
            username=kafka.username,
            password=kafka.password,
            mechanism=kafka.mechanism,
        )
    except OSError as error:
        raise StartError(f"[kafka] cafile: {kafka.cafile}: {error}") from None


def _sqs(settings: Settings, house: House) -> Service | None:
    sqs = settings.sqs
    if not sqs.listen:
        return None
    from pcapdaemon.listeners.sqs import SqsListener

    return SqsListener(
        house.reactor,
        house.intake,
        url=sqs.url,
        region=sqs.region,
        accessid=sqs.accessid,
        accesskey=sqs.accesskey,
        endpoint=sqs.endpoint,
        waitseconds=sqs.waitseconds,
        chunksize=sqs.chunksize,
    )


@attrs.frozen
class Part:
    """
    @ivar make: Makes it, or nothing where it is off.
    @ivar needs: What of the settings it is made of: where that has changed, it
        is made anew.
    """

    make: Callable[[Settings, House], Service | None]
    needs: Callable[[Settings], Any]


#: In the order in which they start, which is the reverse of that in which they end:
#: a part needs those before it.
PARTS = {
    "syslog": Part(_syslog, lambda s: s.syslog),
    # A listener that is made anew misses requests, a publisher goes on where it was:
    # what the one does not need must not change it.
    "redis-events": Part(
        _redisEvents,
        lambda s: (attrs.evolve(s.redis, listen=False, channel=""), s.events),
    ),
    "kafka-events": Part(
        _kafkaEvents,
        lambda s: (attrs.evolve(s.kafka, listen=False, topic=""), s.events),
    ),
    "sqs-events": Part(
        _sqsEvents,
        lambda s: (
            attrs.evolve(s.sqs, listen=False, url="", waitseconds=0, chunksize=0),
            s.events,
        ),
    ),
    "webhook": Part(_webhook, lambda s: (s.webhook, s.events)),
    "spool": Part(_spool, lambda s: s.spool.directory),
    "local": Part(_local, lambda s: (s.general.writelocal, s.general.localdir)),
    "cloudshark": Part(_cloudshark, lambda s: s.cloudshark),
    "s3": Part(_s3, lambda s: s.s3),
    # The files that are kept outlive it.
    "http": Part(_http, lambda s: attrs.evolve(s.http, files=0)),
    "redis": Part(_redis, lambda s: attrs.evolve(s.redis, events="")),
    "kafka": Part(_kafka, lambda s: attrs.evolve(s.kafka, events="")),
    "sqs": Part(_sqs, lambda s: attrs.evolve(s.sqs, events="")),
}
