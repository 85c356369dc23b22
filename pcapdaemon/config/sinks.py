# See LICENSE for details.
"""
The sections of a configuration that say where captures go.
"""

from __future__ import annotations

import attrs

from pcapdaemon.config.rules import (
    FLAG,
    HOST,
    NAME,
    PORT,
    TEXT,
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
