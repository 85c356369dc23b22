# See LICENSE for details.
"""
The sections of a configuration that say how requests come, and where events go.
"""

from __future__ import annotations

import attrs

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

#: What Kafka takes for the name of a topic, or nothing.
TOPIC = text(
    "at most 249 letters, digits, dots, dashes and underscores", "[A-Za-z0-9._-]{0,249}"
)


@attrs.frozen
class HttpSettings:
    """
    C{[http]}: requests by HTTP.

    @ivar listen: Whether to.
    @ivar host: The address to bind.
    @ivar port: The port; 0 for any free one.
    @ivar token: The bearer token that is asked for; empty for none.
    @ivar files: Bytes of memory for the files of the last captures; 0 for none.
    """

    listen: bool = key(False, FLAG)
    host: str = key("127.0.0.1", HOST)
    port: int = key(8477, integer(0, 65535))
    token: str = key(
        "",
        text("at least 16 printable ASCII characters, no spaces", r"([!-~]{16,})?"),
        secret=True,
    )
    files: int = key(0, integer(0))


@attrs.frozen
class RedisSettings:
    """
    C{[redis]}: requests from a Redis channel, events to another.

    @ivar listen: Whether to.
    @ivar host: The server.
    @ivar port: Its port.
    @ivar channel: The channel to subscribe to.
    @ivar events: The channel that events go to; empty for none.
    @ivar auth: The password; empty for none.
    @ivar username: The user whose password it is; empty for the default one.
    @ivar tls: Whether to use TLS.
    @ivar cafile: A PEM file of trusted authorities; empty for the system's.
    """

    listen: bool = key(False, FLAG)
    host: str = key("127.0.0.1", HOST)
    port: int = key(6379, PORT)
    channel: str = key("capture", NAME)
    events: str = key("", TEXT)
    auth: str = key("", TEXT, secret=True)
    username: str = key("", TEXT)
    tls: bool = key(False, FLAG)
    cafile: str = key("", TEXT)


@attrs.frozen
class KafkaSettings:
    """
    C{[kafka]}: requests from a Kafka topic, events to another.

    @ivar listen: Whether to.
    @ivar server: The brokers, each C{host:port}.
    @ivar topic: The topic.
    @ivar events: The topic that events go to; empty for none.
    @ivar security: The protocol, as Kafka calls it.
    @ivar cafile: A PEM file of trusted authorities; empty for the system's.
    @ivar username: With SASL, the user.
    @ivar password: With SASL, the password.
    @ivar mechanism: With SASL, which.
    """

    listen: bool = key(False, FLAG)
    server: tuple[str, ...] = key((), texts('an array of "host:port"', acceptServer))
    topic: str = key("capture", NAME)
    events: str = key("", TOPIC)
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
    C{[sqs]}: requests from an Amazon SQS queue, events to another.

    @ivar listen: Whether to.
    @ivar region: The region of the queue.
    @ivar accessid: The access key's identifier.
    @ivar accesskey: The access key.
    @ivar url: The queue.
    @ivar events: The queue that events go to; empty for none.
    @ivar waitseconds: Seconds of one long poll.
    @ivar chunksize: The most messages of one poll.
    @ivar endpoint: The service; empty for the region's.
    """

    listen: bool = key(False, FLAG)
    region: str = key("", TEXT)
    accessid: str = key("", TEXT, secret=True)
    accesskey: str = key("", TEXT, secret=True)
    url: str = key("", TEXT)
    events: str = key("", TEXT)
    waitseconds: int = key(20, integer(0, 20))
    chunksize: int = key(10, integer(1, 10))
    endpoint: str = key("", TEXT)


@attrs.frozen
class WebhookSettings:
    """
    C{[webhook]}: events to a web server.

    @ivar url: Where to post them; empty for nowhere.
    @ivar secret: What they are signed with; empty to not sign them.
    @ivar timeout: Seconds that one may take.
    @ivar cafile: A PEM file of trusted authorities; empty for the system's.
    """

    # Secret because such addresses often have a token in them.
    url: str = key(
        "",
        text(
            "an HTTP(S) URL in ASCII, without a user, or empty",
            r"(https?://[!-.0-?A-~]+([/?][!-~]*)?)?",
        ),
        secret=True,
    )
    secret: str = key(
        "",
        text("at least 16 printable ASCII characters, no spaces", r"([!-~]{16,})?"),
        secret=True,
    )
    timeout: float = key(10, seconds(zero=False))
    cafile: str = key("", TEXT)
