# See LICENSE for details.
"""
The sections of a configuration, each as a frozen value.

The attributes have the names of the keys, but for C{alias} of an interface.
The values of a section that was read keep the rules declared here; one that
is made directly (by a program, in a test) is not checked.
"""

from __future__ import annotations

import attrs

from pcapdaemon.capture.budget import LEAST_RING
from pcapdaemon.config.buses import (
    HttpSettings,
    KafkaSettings,
    RedisSettings,
    SqsSettings,
    WebhookSettings,
)
from pcapdaemon.config.rules import (
    FLAG,
    NAME,
    TEXT,
    integer,
    interval,
    key,
    oneOf,
    seconds,
    text,
    texts,
)
from pcapdaemon.config.sinks import CloudsharkSettings, S3Settings, SpoolSettings
from pcapdaemon.config.triggers import TriggerSettings


@attrs.frozen
class GeneralSettings:
    """
    C{[general]}: limits of requests, and the local sink.

    @ivar maxpackets: The most packets, and how many where a request is silent.
    @ivar writelocal: Whether to write captures to C{localdir}.
    @ivar localdir: The directory of the local sink.
    @ivar snaplength: Bytes kept of each packet where a request is silent.
    @ivar defaulttimeout: Idle seconds where a request is silent.
    @ivar maxtimeout: The most idle seconds.
    @ivar maxduration: The most seconds, and how many where a request is silent.
    @ivar maxbytes: The most bytes of file, and how many where a request is
        silent.
    @ivar packetdebug: Whether to log each packet of each capture.
    @ivar logrequests: Whether to log each request.
    @ivar panic: Whether a packet that cannot be decoded fails its capture.
    @ivar maxmessage: The most bytes of a message.
    @ivar maxfilter: The most characters of a request's filter.
    @ivar node: The name that requests know this node by; empty for the host's.
    @ivar debug: Whether to log, too, what is for other nodes.
    """

    maxpackets: int = key(50000, integer(1))
    writelocal: bool = key(False, FLAG)
    localdir: str = key("/tmp", NAME)
    snaplength: int = key(500, integer(1, 262144))
    defaulttimeout: float = key(10, seconds(zero=False))
    maxtimeout: float = key(3600, seconds(zero=False))
    maxduration: float = key(3600, seconds(zero=False))
    maxbytes: int = key(100_000_000, integer(1))
    packetdebug: bool = key(False, FLAG)
    logrequests: bool = key(False, FLAG)
    panic: bool = key(False, FLAG)
    maxmessage: int = key(65536, integer(1024))
    maxfilter: int = key(1024, integer(0))
    node: str = key("", TEXT)
    debug: bool = key(False, FLAG)


@attrs.frozen
class CaptureSettings:
    """
    C{[capture]}: what all captures together may use.

    @ivar engine: What brings the packets: C{auto}, C{libpcap} or C{pcapy}.
    @ivar precision: Of time stamps: C{micro} or C{nano}.
    @ivar maxcaptures: The most captures at once.
    @ivar buffersize: The most bytes of kernel ring that one capture gets.
    @ivar totalbuffer: The most bytes of kernel ring in all.
    @ivar memory: The most bytes of recordings in all.
    @ivar filter: A libpcap filter that holds for every capture too.
    @ivar promiscuous: Whether to ask devices for packets to other hosts.
    @ivar cooldown: Seconds in which the same trigger counts once; 0 for none.
    @ivar resolve: Whether a filter may name hosts.
    @ivar grace: Seconds that closing may take.
    @ivar keep: How many finished captures can still be asked about.
    """

    engine: str = key(
        "auto", text('"auto", "libpcap" or "pcapy"', "auto|libpcap|pcapy")
    )
    precision: str = key("micro", oneOf("micro", "nano"))
    maxcaptures: int = key(1000, integer(1))
    buffersize: int = key(33_554_432, integer(LEAST_RING, 1_073_741_824))
    totalbuffer: int = key(1_073_741_824, integer(1))
    memory: int = key(1_073_741_824, integer(1))
    filter: str = key("", text("a libpcap filter", r"[^\x00]*"))
    promiscuous: bool = key(False, FLAG)
    cooldown: float = key(0, seconds(zero=True))
    resolve: bool = key(False, FLAG)
    grace: float = key(10, seconds(zero=True))
    keep: int = key(100, integer(0))


@attrs.frozen
class EventsSettings:
    """
    C{[events]}: what is told of captures, and how long it is kept for a bus.

    @ivar progress: Seconds between two C{progress} events of a capture; 0 for
        none.
    @ivar backlog: The most events that wait for each bus.
    """

    progress: float = key(0, interval(1))
    backlog: int = key(10_000, integer(1, 1_000_000))


@attrs.frozen
class SyslogSettings:
    """
    C{[syslog]}: the log, also to the system log.

    @ivar priority: Facility and severity, as in C{sys/syslog.h}.
    @ivar tag: The program name.
    """

    priority: int = key(25, integer(0, 191))
    tag: str = key("pcapdaemon", NAME)


@attrs.frozen
class InterfaceSettings:
    """
    One C{[[interface]]}: a device and what requests may call it.

    @ivar name: The device.
    @ivar aliases: Its aliases: the key C{alias}.
    """

    name: str = key("", NAME)
    aliases: tuple[str, ...] = key(
        (), texts("an array of texts that are not empty", NAME.accept), toml="alias"
    )


@attrs.frozen
class Settings:
    """
    A whole configuration: one attribute for each section.

    @ivar syslog: L{None} where the log does not go to the system log.
    @ivar interfaces: Every C{[[interface]]}.
    @ivar triggers: Every C{[[trigger]]}.
    """

    general: GeneralSettings = attrs.Factory(GeneralSettings)
    capture: CaptureSettings = attrs.Factory(CaptureSettings)
    events: EventsSettings = attrs.Factory(EventsSettings)
    http: HttpSettings = attrs.Factory(HttpSettings)
    redis: RedisSettings = attrs.Factory(RedisSettings)
    kafka: KafkaSettings = attrs.Factory(KafkaSettings)
    sqs: SqsSettings = attrs.Factory(SqsSettings)
    webhook: WebhookSettings = attrs.Factory(WebhookSettings)
    cloudshark: CloudsharkSettings = attrs.Factory(CloudsharkSettings)
    s3: S3Settings = attrs.Factory(S3Settings)
    spool: SpoolSettings = attrs.Factory(SpoolSettings)
    syslog: SyslogSettings | None = None
    interfaces: tuple[InterfaceSettings, ...] = ()
    triggers: tuple[TriggerSettings, ...] = ()


#: The sections that stand once.
SECTIONS = {
    "general": GeneralSettings,
    "capture": CaptureSettings,
    "events": EventsSettings,
    "http": HttpSettings,
    "redis": RedisSettings,
    "kafka": KafkaSettings,
    "sqs": SqsSettings,
    "webhook": WebhookSettings,
    "cloudshark": CloudsharkSettings,
    "s3": S3Settings,
    "spool": SpoolSettings,
    "syslog": SyslogSettings,
}

#: Those that may stand any number of times.
TABLES = {"interface": InterfaceSettings, "trigger": TriggerSettings}

#: The options of the command line: what each one sets.
OPTIONS = {
    "cshost": ("cloudshark", "host"),
    "csscheme": ("cloudshark", "scheme"),
    "cstoken": ("cloudshark", "token"),
    "csport": ("cloudshark", "port"),
    "cstimeout": ("cloudshark", "timeout"),
    "redischannel": ("redis", "channel"),
    "redisnode": ("redis", "host"),
    "redisport": ("redis", "port"),
    "upload": ("cloudshark", "upload"),
    "writelocal": ("general", "writelocal"),
    "destdir": ("general", "localdir"),
    "maxpackets": ("general", "maxpackets"),
    "panic": ("general", "panic"),
}
