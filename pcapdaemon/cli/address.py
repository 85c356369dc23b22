# See LICENSE for details.
"""
Buses and servers as URLs.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import attrs

REDIS, KAFKA, SQS, HTTP = "redis", "kafka", "sqs", "http"

#: What may be written, for messages.
FORMS = (
    "redis://[USER:PASSWORD@]HOST[:PORT]/CHANNEL",
    "kafka://HOST:PORT[,HOST:PORT]/TOPIC",
    "sqs+https://QUEUE",
    "http://HOST[:PORT]",
)

_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:,/\[\]]+)(?::([0-9]{1,5}))?")


@attrs.frozen
class Address:
    """
    One bus or server.

    @ivar kind: L{REDIS}, L{KAFKA}, L{SQS} or L{HTTP}.
    @ivar label: The URL without its secrets, for people.
    @ivar servers: Host and port of each server.
    @ivar tls: Whether to use TLS.
    @ivar name: The channel or topic, or the URL of the queue.
    @ivar username: With C{password}; else empty.
    @ivar password: Is never shown.
    @ivar mechanism: With Kafka and a user: how to say who one is.
    """

    kind: str
    label: str
    servers: tuple[tuple[str, int], ...]
    tls: bool
    name: str = ""
    username: str = ""
    password: str = attrs.field(default="", repr=False)
    mechanism: str = "PLAIN"

    def events(self) -> Address | None:
        """
        Where the daemons of this bus tell of their captures, unless somebody has
        configured another place; L{None} where nothing can be supposed.
        """
        if self.kind == HTTP:
            return self
        if self.kind == SQS:
            return None
        more = ".events" if self.kind == REDIS else "-events"
        return attrs.evolve(self, name=self.name + more, label=self.label + more)


def parse(url: str) -> Address:
    """
    Read a URL.

    @raise ValueError: It is none of L{FORMS}; the text shows no password.
    """
    parts = _split(url)
    scheme = parts.scheme
    if scheme in ("redis", "rediss"):
        return _redis(parts)
    if scheme in ("kafka", "kafkas"):
        return _kafka(parts)
    if scheme in ("sqs+http", "sqs+https"):
        return _sqs(parts)
    if scheme in ("http", "https"):
        return _http(parts)
    raise ValueError(f"a URL must be one of {', '.join(FORMS)}")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if not url.isprintable() or " " in url or not parts.netloc:
        raise ValueError(f"a URL must be one of {', '.join(FORMS)}")
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        # A password with one of them, and what is before it is no host then.
        raise ValueError(
            "in a URL /, ? and # of a password must be %2F, %3F and %23, and @ of a "
            "name %40"
        )
    return parts


def _shown(parts: SplitResult) -> str:
    """
    A URL without user and password, parameters and fragment.
    """
    place = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{place}{parts.path}"


def _servers(parts: SplitResult, port: int) -> tuple[tuple[str, int], ...]:
    """
    @param port: The usual one.
    @raise ValueError: That is no server.
    """
    found = []
    for each in parts.netloc.rpartition("@")[2].split(","):
        match = _SERVER.fullmatch(each)
        if match is None or not 0 < int(match[2] or port) < 65536:
            raise ValueError(f"{_shown(parts)}: {each!r} is not HOST or HOST:PORT")
        found.append((match[1].strip("[]"), int(match[2] or port)))
    return tuple(found)


def _one(parts: SplitResult, port: int) -> tuple[tuple[str, int], ...]:
    servers = _servers(parts, port)
    if len(servers) > 1:
        raise ValueError(f"{_shown(parts)}: only Kafka has several servers")
    return servers


def _user(parts: SplitResult) -> tuple[str, str]:
    """
    User and password, each empty where there is none.
    """
    given, at, _ = parts.netloc.rpartition("@")
    username, _, password = given.partition(":")
    if at and not password:
        raise ValueError(f"{_shown(parts)}: before @ must be USER:PASSWORD@")
    return unquote(username), unquote(password)


def _named(parts: SplitResult, what: str) -> str:
    name = unquote(parts.path.removeprefix("/"))
    if not name or not name.isprintable() or parts.fragment:
        raise ValueError(f"{_shown(parts)}: must end with /{what}")
    return name


def _redis(parts: SplitResult) -> Address:
    username, password = _user(parts)
    return Address(
        REDIS,
        _shown(parts),
        _one(parts, 6379),
        parts.scheme == "rediss",
        _named(parts, "CHANNEL"),
        username,
        password,
    )


def _kafka(parts: SplitResult) -> Address:
    username, password = _user(parts)
    if password and not username:
        raise ValueError(f"{_shown(parts)}: before @ must be USER:PASSWORD@")
    options = dict(parse_qsl(parts.query))
    mechanism = options.pop("mechanism", "PLAIN")
    if options or mechanism not in _MECHANISMS:
        raise ValueError(
            f"{_shown(parts)}: behind ? can only be mechanism=, one of "
            f"{', '.join(_MECHANISMS)}"
        )
    return Address(
        KAFKA,
        _shown(parts),
        _servers(parts, 9092),
        parts.scheme == "kafkas",
        _named(parts, "TOPIC"),
        username,
        password,
        mechanism,
    )


def _sqs(parts: SplitResult) -> Address:
    if "@" in parts.netloc:
        raise ValueError(
            f"{_shown(parts)}: credentials are those of the AWS configuration, not "
            "of the URL"
        )
    _named(parts, "ACCOUNT/QUEUE")
    scheme = parts.scheme.removeprefix("sqs+")
    servers = _one(parts, 443 if scheme == "https" else 80)
    name = f"{scheme}://{parts.netloc}{parts.path}"
    return Address(SQS, _shown(parts), servers, scheme == "https", name)


def _http(parts: SplitResult) -> Address:
    if "@" in parts.netloc:
        raise ValueError(f"{_shown(parts)}: the token belongs into --token-file")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{_shown(parts)}: must end with the host or its port")
    tls = parts.scheme == "https"
    servers = _one(parts, 443 if tls else 8477)
    return Address(HTTP, _shown(parts).rstrip("/"), servers, tls)
