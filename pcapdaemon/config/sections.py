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
from pcapdaemon.config.rules import (
    FLAG,
    HOST,
    NAME,
    PORT,
    TEXT,
    acceptServer,
    integer,
    key,
    oneOf,
    seconds,
    text,
    texts,
)

#: The keys of C{[s3]} that a request may have too.
OVERRIDES = ("folder", "bucket", "acl", "region", "endpoint", "encryption")


def acceptOverride(value: str) -> str:
    """
    Accept one of L{OVERRIDES}.
    """
    if value not in OVERRIDES:
        raise ValueError
    return value


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
class HttpSettings:
    """
    C{[http]}: requests by HTTP.

    @ivar listen: Whether to.
    @ivar host: The address to bind.
    @ivar port: The port; 0 for any free one.
    @ivar token: The bearer token that is asked for; empty for none.
    """

    listen: bool = key(False, FLAG)
    host: str = key("127.0.0.1", HOST)
    port: int = key(8477, integer(0, 65535))
    token: str = key(
        "",
        text("at least 16 printable ASCII characters, no spaces", r"([!-~]{16,})?"),
        secret=True,
    )


@attrs.frozen
class RedisSettings:
    """
    C{[redis]}: requests from a Redis channel.

    @ivar listen: Whether to.
    @ivar host: The server.
    @ivar port: Its port.
    @ivar channel: The channel to subscribe to.
    @ivar auth: The password; empty for none.
    @ivar username: The user whose password it is; empty for the default one.
    @ivar tls: Whether to use TLS.
    @ivar cafile: A PEM file of trusted authorities; empty for the system's.
    """

    listen: bool = key(False, FLAG)
    host: str = key("127.0.0.1", HOST)
    port: int = key(6379, PORT)
    channel: str = key("capture", NAME)
    auth: str = key("", TEXT, secret=True)
    username: str = key("", TEXT)
    tls: bool = key(False, FLAG)
    cafile: str = key("", TEXT)


@attrs.frozen
class KafkaSettings:
    """
    C{[kafka]}: requests from a Kafka topic.

    @ivar listen: Whether to.
    @ivar server: The brokers, each C{host:port}.
    @ivar topic: The topic.
    @ivar security: The protocol, as Kafka calls it.
    @ivar cafile: A PEM file of trusted authorities; empty for the system's.
    @ivar username: With SASL, the user.
    @ivar password: With SASL, the password.
    @ivar mechanism: With SASL, which.
    """

    listen: bool = key(False, FLAG)
    server: tuple[str, ...] = key((), texts('an array of "host:port"', acceptServer))
    topic: str = key("capture", NAME)
    security: str = key(
        "PLAINTEXT",
        oneOf("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    )
    cafile: str = key("", TEXT)
    username: str = key("", TEXT)
    password: str = key("", TEXT, secret=True)
    mechanism: str = key("PLAIN", oneOf("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"))


@attrs.frozen
class SqsSettings:
    """
    C{[sqs]}: requests from an Amazon SQS queue.

    @ivar listen: Whether to.
    @ivar region: The region of the queue.
    @ivar accessid: The access key's identifier.
    @ivar accesskey: The access key.
    @ivar url: The queue.
    @ivar waitseconds: Seconds of one long poll.
    @ivar chunksize: The most messages of one poll.
    @ivar endpoint: The service; empty for the region's.
    """

    listen: bool = key(False, FLAG)
    region: str = key("", TEXT)
    accessid: str = key("", TEXT, secret=True)
    accesskey: str = key("", TEXT, secret=True)
    url: str = key("", TEXT)
    waitseconds: int = key(20, integer(0, 20))
    chunksize: int = key(10, integer(1, 10))
    endpoint: str = key("", TEXT)


@attrs.frozen
class CloudsharkSettings:
    """
    C{[cloudshark]}: captures to CloudShark.

    @ivar host: The server.
    @ivar scheme: C{http} or C{https}.
    @ivar port: Its port.
    @ivar timeout: Seconds that an upload may take; 0 for no limit.
    @ivar token: The API token.
    @ivar upload: Whether to upload.
    @ivar cafile: A PEM file of trusted authorities; empty for the system's.
    @ivar verify: Whether to look at the server's certificate.
    @ivar proxy: The proxy to go by; empty for none.
    """

    host: str = key("localhost", HOST)
    scheme: str = key("https", oneOf("http", "https"))
    port: int = key(443, PORT)
    timeout: float = key(0, seconds(zero=True))
    token: str = key("", TEXT, secret=True)
    upload: bool = key(False, FLAG)
    cafile: str = key("", TEXT)
    verify: bool = key(True, FLAG)
    # Secret because people put passwords there; and refused because one would
    # not be used.
    proxy: str = key(
        "",
        text(
            '"http://HOST:PORT", without a user, or empty',
            r"(http://[^\s\x00-\x1f\x7f/@?#]+:[0-9]{1,5}/?)?",
        ),
        secret=True,
    )


@attrs.frozen
class S3Settings:
    """
    C{[s3]}: captures to Amazon S3 or what speaks its language.

    @ivar accessid: The access key's identifier.
    @ivar accesskey: The access key.
    @ivar endpoint: The service, with or without a scheme.
    @ivar bucket: The bucket.
    @ivar folder: What the keys begin with.
    @ivar upload: Whether to upload.
    @ivar region: The region of the bucket.
    @ivar acl: The canned ACL of what is uploaded.
    @ivar encryption: Whether the server shall encrypt it.
    @ivar cafile: A PEM file of trusted authorities; empty for the usual ones.
    @ivar allow: Which of these keys a request may override.
    @ivar endpoints: The endpoints that it may name, beside C{endpoint}.
    """

    accessid: str = key("", TEXT, secret=True)
    accesskey: str = key("", TEXT, secret=True)
    endpoint: str = key("", TEXT)
    bucket: str = key("", TEXT)
    folder: str = key("", TEXT)
    upload: bool = key(False, FLAG)
    region: str = key("", TEXT)
    acl: str = key("", TEXT)
    encryption: bool = key(False, FLAG)
    cafile: str = key("", TEXT)
    allow: tuple[str, ...] = key(
        OVERRIDES,
        texts(f"an array of {', '.join(OVERRIDES)}", acceptOverride),
    )
    endpoints: tuple[str, ...] = key(
        (), texts("an array of texts that are not empty", NAME.accept)
    )


@attrs.frozen
class SpoolSettings:
    """
    C{[spool]}: what sinks would not take.

    @ivar directory: Where it is kept; empty for nowhere.
    @ivar maxsize: The most bytes there.
    @ivar maxage: Seconds after which it is dropped.
    """

    directory: str = key("", TEXT)
    maxsize: int = key(1_073_741_824, integer(1))
    maxage: float = key(604_800, seconds(zero=False))


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
    """

    general: GeneralSettings = attrs.Factory(GeneralSettings)
    capture: CaptureSettings = attrs.Factory(CaptureSettings)
    http: HttpSettings = attrs.Factory(HttpSettings)
    redis: RedisSettings = attrs.Factory(RedisSettings)
    kafka: KafkaSettings = attrs.Factory(KafkaSettings)
    sqs: SqsSettings = attrs.Factory(SqsSettings)
    cloudshark: CloudsharkSettings = attrs.Factory(CloudsharkSettings)
    s3: S3Settings = attrs.Factory(S3Settings)
    spool: SpoolSettings = attrs.Factory(SpoolSettings)
    syslog: SyslogSettings | None = None
    interfaces: tuple[InterfaceSettings, ...] = ()


#: The sections that stand once.
SECTIONS = {
    "general": GeneralSettings,
    "capture": CaptureSettings,
    "http": HttpSettings,
    "redis": RedisSettings,
    "kafka": KafkaSettings,
    "sqs": SqsSettings,
    "cloudshark": CloudsharkSettings,
    "s3": S3Settings,
    "spool": SpoolSettings,
    "syslog": SyslogSettings,
}

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
