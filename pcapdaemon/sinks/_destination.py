# See LICENSE for details.
"""
Where in S3 a recording goes: what is configured, and what of it a request may
change. Nothing here knows boto3, so that a request can be judged without it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs

from pcapdaemon.interfaces import Reason, Refused, StartError
from pcapdaemon.request import CaptureRequest, show

#: Bytes of a folder in UTF-8: a key has at most 1024, and a file name 200.
MAXFOLDER = 800
#: Bytes of C{tags}: S3 takes 2048 of metadata, the name included.
MAXTAGS = 2000

_ACLS = (
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
    "log-delivery-write",
)

_ENDPOINT = re.compile(
    r"(?:(https?)://)?([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?(/[\w.~/-]*)?",
    re.ASCII | re.IGNORECASE,
)


@attrs.frozen
class Destination:
    """
    Where one recording goes, and how.

    @ivar bucket: The bucket.
    @ivar folder: What the key begins with, without slashes at its ends; may be
        empty.
    @ivar region: The region; empty for that of the AWS configuration.
    @ivar endpoint: The URL of the service; empty for that of the region.
    @ivar acl: The canned ACL; empty for none.
    @ivar encryption: Whether the server shall encrypt it.
    """

    bucket: str = ""
    folder: str = ""
    region: str = ""
    endpoint: str = ""
    acl: str = ""
    encryption: bool = False

    def key(self, filename: str) -> str:
        """
        The key of a file.
        """
        return f"{self.folder}/{filename}" if self.folder else filename


# What may be said, each in one form. C{ValueError} names what is allowed.


def _bucket(text: str) -> str:
    # Not an ARN, by which boto3 would go to another server than configured.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}", text):
        raise ValueError(
            "3 to 255 letters, digits, '.', '_' and '-', the first no sign"
        )
    return text


def _folder(text: str) -> str:
    parts = [part for part in text.split("/") if part]
    # A server or proxy might take a dot for a way up, out of the bucket.
    if (
        not text.isprintable()
        or not {".", ".."}.isdisjoint(parts)
        or len(text.encode("utf-8")) > MAXFOLDER
    ):
        raise ValueError(
            f"a printable path of at most {MAXFOLDER} bytes without '.' and '..'"
        )
    return "/".join(parts)


def _region(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]{1,63}", text):
        raise ValueError("at most 63 letters, digits and '-'")
    return text


def _endpoint(text: str) -> str:
    match = _ENDPOINT.fullmatch(text)
    if match is None or int(match[3] or 1) not in range(1, 65536):
        raise ValueError("HOST, HOST:PORT or an HTTP(S) URL without user and query")
    scheme, host = (match[1] or "https").lower(), match[2].lower()
    port = int(match[3] or 0)
    if port == {"http": 80, "https": 443}[scheme]:
        port = 0
    where = f"{host}:{port}" if port else host
    return f"{scheme}://{where}{(match[4] or '').rstrip('/')}"


def _acl(text: str) -> str:
    if text not in _ACLS:
        raise ValueError("one of " + ", ".join(_ACLS))
    return text


#: What C{[s3]} and requests may say, by key.
RULES: Mapping[str, Callable[[Any], Any]] = {
    "bucket": _bucket,
    "folder": _folder,
    "region": _region,
    "endpoint": _endpoint,
    "acl": _acl,
    "encryption": bool,
}

#: What a request can override at all.
OVERRIDES = tuple(RULES)


@attrs.frozen
class Overrides:
    """
    What is configured, and what of it a request may change.

    @ivar configured: Where recordings go when the request is silent.
    @ivar allow: Which of L{OVERRIDES} requests may use.
    @ivar endpoints: The URLs that they may name, the configured one included.
    """

    configured: Destination
    allow: frozenset[str]
    endpoints: tuple[str, ...]

    def destination(self, request: CaptureRequest) -> Destination:
        """
        Where the recordings of a request go. What is empty, or as configured
        anyway, overrides nothing.

        @raise Refused: The request asks for what it may not (C{invalid}).
        """
        changes: dict[str, Any] = {}
        for key in OVERRIDES:
            given = getattr(request, key)
            if given is None or given == "":
                continue
            try:
                value = RULES[key](given)
                if key == "endpoint":
                    value = self._named(given, value)
                if value != getattr(self.configured, key) and key not in self.allow:
                    raise ValueError("what [s3] says, as allow there has no " + key)
            except ValueError as error:
                raise Refused(
                    Reason.INVALID, f"{key} is {show(given)}; allowed is {error}"
                ) from None
            changes[key] = value
        there = attrs.evolve(self.configured, **changes)
        if not there.bucket:
            raise Refused(
                Reason.INVALID, "bucket is missing, and [s3] bucket names none either"
            )
        return there

    def _named(self, given: str, wanted: str) -> str:
        """
        The endpoint that a request means: without a scheme, that of a
        configured one with this address.
        """
        for known in self.endpoints:
            if wanted == known or (
                "://" not in given
                and wanted.partition("://")[2] == known.partition("://")[2]
            ):
                return known
        raise ValueError("what [s3] endpoint or endpoints names")


def makeOverrides(
    *,
    bucket: str = "",
    folder: str = "",
    region: str = "",
    endpoint: str = "",
    acl: str = "",
    encryption: bool = False,
    allow: Collection[str] = OVERRIDES,
    endpoints: Sequence[str] = (),
) -> Overrides:
    """
    Make it of the keys of C{[s3]}.

    @param endpoints: Endpoints other than C{endpoint} that requests may name.
    @raise StartError: A value is wrong; the text says which.
    """

    def checked(key: str, rule: str, given: Any) -> Any:
        try:
            return RULES[rule](given)
        except ValueError as error:
            raise StartError(f"[s3] {key}: {show(given)}; allowed is {error}") from None

    given: dict[str, Any] = {
        "bucket": bucket,
        "folder": folder,
        "region": region,
        "endpoint": endpoint,
        "acl": acl,
        "encryption": encryption,
    }
    values = {k: v if v == "" else checked(k, k, v) for k, v in given.items()}
    for name in allow:
        if name not in OVERRIDES:
            raise StartError(
                f"[s3] allow: {show(name)}; allowed are {', '.join(OVERRIDES)}"
            )
    if not bucket and "bucket" not in allow:
        raise StartError("[s3] bucket: missing, and requests may not name one")
    configured = Destination(**values)
    named = [configured.endpoint] if endpoint else []
    named += [checked("endpoints", "endpoint", each) for each in endpoints]
    return Overrides(configured, frozenset(allow), tuple(named))


def metadata(tags: str) -> str:
    """
    Tags as the value of an S3 header may be, which is ASCII. What does not fit
    is left out, from the end and by whole tags. A text with other characters
    becomes an RFC 2047 word, C{=?UTF-8?B?...?=}, as S3 itself writes it.
    """
    plain = tags.isascii() and tags.isprintable() and tags == tags.strip()
    if plain and len(tags) <= MAXTAGS:
        return tags
    # Base64 makes four bytes of three, and the frame of the word takes twelve.
    room = MAXTAGS if plain else (MAXTAGS - 12) // 4 * 3
    content = tags.encode("utf-8")
    if len(content) > room:
        content = content[: room + 1].rpartition(b",")[0] or content[:room]
    if plain:
        return content.decode("ascii")
    # A single tag may have been cut within a character.
    content = content.decode("utf-8", "ignore").encode("utf-8")
    return f"=?UTF-8?B?{base64.b64encode(content).decode('ascii')}?="
