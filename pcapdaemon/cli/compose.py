# See LICENSE for details.
"""
A request made of options: one for each of its keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])

#: The most bytes of a request from a file; a daemon takes 65536 by default.
LARGEST = 1 << 20

_TEXTS = {
    "node": ("NAME", "The node that is meant, or any; any where this is missing."),
    "nodere": ("RE2", "Or the nodes in whose names this expression is found."),
    "bpf": ("FILTER", "A libpcap filter; all packets without one."),
    "tags": ("TAGS", "Metadata, comma-separated."),
    "customer": ("NAME", "Metadata."),
    "request_id": ("ID", "The name of the request in all events; else one is made."),
    "folder": ("FOLDER", "S3: what the key begins with."),
    "bucket": ("BUCKET", "S3: the bucket."),
    "acl": ("ACL", "S3: the canned ACL."),
    "region": ("REGION", "S3: the region."),
    "endpoint": ("URL", "S3: the service."),
    "direction": ("WAY", "Packets that come in, go out, or both: in, out, both."),
}
_NUMBERS: dict[str, tuple[type, str, str]] = {
    "snap": (int, "BYTES", "Bytes kept of each packet."),
    "packets": (int, "N", "Stop after so many packets."),
    "bytes": (int, "BYTES", "Stop when the file has reached so many bytes."),
    "timeout": (float, "SECONDS", "Stop after so many seconds without a packet."),
    "duration": (float, "SECONDS", "Stop after so many seconds."),
    "alertid": (int, "N", "Metadata."),
}
_LISTS = {
    "interface": ("-i", "DEVICE", "A device, or any. May be repeated."),
    "alias": ("-a", "ALIAS", "Or an alias of devices. May be repeated."),
}
_FLAGS = {
    "packetdebug": "Have each packet logged, decoded.",
    "logrequest": "Have the request logged.",
    "encryption": "S3: whether the server encrypts the file.",
}
#: In the order of C{--help}.
KEYS = (
    *("node", "nodere", "interface", "alias", "bpf", "direction", "snap"),
    *("packets", "bytes", "timeout", "duration"),
    *("tags", "customer", "alertid", "request_id", "packetdebug", "logrequest"),
    *("folder", "bucket", "acl", "region", "endpoint", "encryption"),
)


def _option(key: str) -> Callable[[_F], _F]:
    name = f"--{key.replace('_', '-')}"
    if key in _TEXTS:
        metavar, text = _TEXTS[key]
        short = ["-f"] if key == "bpf" else []
        return click.option(*short, name, metavar=metavar, help=text)
    if key in _NUMBERS:
        kind, metavar, text = _NUMBERS[key]
        return click.option(name, type=kind, metavar=metavar, help=text)
    if key in _LISTS:
        letter, metavar, text = _LISTS[key]
        return click.option(letter, name, multiple=True, metavar=metavar, help=text)
    return click.option(f"{name}/--no-{key}", default=None, help=_FLAGS[key])


def keys(function: _F) -> _F:
    """
    An option for each key of a request, and C{--json-file}.
    """
    function = click.option(
        "--json-file",
        type=click.File("rb"),
        metavar="FILE",
        help="A request as JSON, - for standard input; the options above win over it.",
    )(function)
    for key in reversed(KEYS):
        function = _option(key)(function)
    return function


def compose(given: dict[str, Any], file: Any) -> dict[str, Any]:
    """
    The request that options come to, with a C{request_id}.

    @param given: Key to value; of what is not given L{None} or nothing.
    @param file: A file with a request, open; L{None} for none.
    @raise click.UsageError: The file has no JSON object.
    """
    from pcapdaemon.interfaces import Refused
    from pcapdaemon.plan import newId
    from pcapdaemon.request import decode

    fields: dict[str, Any] = {}
    if file is not None:
        try:
            fields = decode(file.read(LARGEST))
        except Refused as refused:
            raise click.UsageError(f"--json-file: {refused.detail}") from None
    for key, value in given.items():
        if value is None or value == ():
            continue
        for one, other in ("node", "nodere"), ("interface", "alias"):
            # What is given takes the place of its opposite in the file.
            if key in (one, other) and not given[other if key == one else one]:
                fields.pop(other if key == one else one, None)
        if isinstance(value, tuple):
            value = list(value)
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        fields[key] = value
    if "node" not in fields and "nodere" not in fields:
        fields["node"] = "any"
    fields.setdefault("request_id", newId())
    return fields


def encode(fields: dict[str, Any]) -> bytes:
    """
    The message.
    """
    return json.dumps(fields, separators=(",", ":")).encode()
