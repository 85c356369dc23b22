# See LICENSE for details.
"""
From the bytes of a message to a frozen, validated L{CaptureRequest}.

Three steps, so that a message for another node costs as little as it can:
L{decode} makes JSON of it, L{concerns} says whether it is for this node, and
only then L{parse} looks at everything else.

Nothing here knows of configuration, of Twisted or of the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from json import JSONDecodeError, JSONDecoder
from typing import Any, NoReturn

import attrs
import re2

from pcapdaemon.interfaces import Direction, Reason, Refused

#: The node name that means every node.
ANY = "any"
#: The bounds of C{snap}.
MAXSNAPLENGTH = 262144
#: The most characters of C{nodere}: what re2 takes to refuse a pattern grows with
#: its length, 25 ms at this one, and every node of a fleet has to.
MAXPATTERN = 1024
#: The most characters of C{request_id}, which stands in every event.
MAXREQUESTID = 200
#: How much of a foreign text is ever shown, and how many names of unknown keys.
_SHOWN, _NAMES = 80, 20


@attrs.frozen
class CaptureRequest:
    """
    What somebody wants captured. Of the values that may be missing, C{None}
    stands for "as configured".

    @ivar node: The exact name of a node or L{ANY}; or else C{None}, and...
    @ivar nodere: ...a RE2 regular expression to be found in its name.
    @ivar interfaces: Devices, each once; or else...
    @ivar aliases: ...names for devices, each once.
    @ivar filter: A libpcap filter as it came; empty for all packets.
    @ivar direction: Which packets, one of the words of L{Direction}.
    @ivar snaplength: Bytes to keep of each packet.
    @ivar packets: The number of packets at which to stop.
    @ivar size: The bytes of the file at which to stop.
    @ivar timeout: Seconds without a packet after which to stop.
    @ivar duration: Seconds after which to stop.
    @ivar tags: Comma-separated metadata.
    @ivar customer: Metadata.
    @ivar alertid: Metadata.
    @ivar request_id: What the sender calls this request: named as in events,
        all of which have it.
    @ivar packetdebug: Whether to log each packet, decoded.
    @ivar logrequest: Whether to log the request.
    @ivar folder: An S3 override, as are C{bucket}, C{acl}, C{region},
        C{endpoint} and C{encryption}.
    @ivar ignored: Names of unknown keys, at most twenty, each printable and of
        at most 80 characters.
    """

    node: str | None = None
    nodere: str | None = None
    interfaces: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    filter: str = ""
    direction: str = Direction.BOTH
    snaplength: int | None = None
    packets: int | None = None
    size: int | None = None
    timeout: float | None = None
    duration: float | None = None
    tags: str = ""
    customer: str = ""
    alertid: int | None = None
    request_id: str = ""
    packetdebug: bool = False
    logrequest: bool = False
    folder: str | None = None
    bucket: str | None = None
    acl: str | None = None
    region: str | None = None
    endpoint: str | None = None
    encryption: bool | None = None
    ignored: tuple[str, ...] = ()


def _printable(text: str) -> str:
    return repr(text[:_SHOWN])[1:-1][:_SHOWN]


def show(value: object) -> str:
    """
    A value from outside as an error message may have it: in one line, short
    and printable, whatever it is.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{_printable(value)}'" + ("..." if len(value) > _SHOWN else "")
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (int, float)):
        return repr(value)
    return "an object" if isinstance(value, Mapping) else "an array"


# Decoding.


def _constant(name: str) -> NoReturn:
    raise Refused(Reason.MALFORMED, f"{name} is no JSON")


_decoder = JSONDecoder(parse_constant=_constant)


def decode(message: bytes) -> dict[str, Any]:
    """
    Make JSON of a message.

    @raise Refused: It is not one JSON object in UTF-8 (C{malformed}).
    """
    try:
        fields = _decoder.decode(message.decode("utf-8"))
    except UnicodeDecodeError as e:
        detail = f"the message is not UTF-8: {e.reason} at byte {e.start}"
    except JSONDecodeError as e:
        detail = f"the message is not JSON: {e.msg} (character {e.pos})"
    except ValueError:
        # The one that is left: Python bounds the digits of an integer.
        detail = "a number in the message has too many digits"
    except RecursionError:
        detail = "the message is nested too deeply"
    else:
        if isinstance(fields, dict):
            return fields
        detail = f"the message is not a JSON object but {show(fields)}"
    raise Refused(Reason.MALFORMED, detail)


# Whose it is.

_options = re2.Options()
_options.log_errors = False
# Bounds what a pattern of a stranger may take; re2 itself keeps 128 of them.
_options.max_mem = 1 << 18


def _compile(pattern: str) -> Any:
    why = "too long"
    if len(pattern) <= MAXPATTERN:
        try:
            return re2.compile(pattern, _options)
        except re2.error as e:
            why = _printable(e.args[0].decode("utf-8", "replace"))
        except UnicodeEncodeError:
            why = "lone surrogate"
    allowed = f"a RE2 regular expression of at most {MAXPATTERN} characters"
    _refuse("nodere", pattern, f"{allowed} ({why})")


@lru_cache(maxsize=256)
def _found(pattern: str, node: str) -> bool:
    return _compile(pattern).search(node) is not None


def concerns(fields: Mapping[str, Any], node: str) -> bool:
    """
    Whether a request is for a node. So is one that does not say clearly whom
    it is for: L{parse} then says what is wrong with it.

    @param node: The host name of the node.
    """
    if "nodere" in fields:
        pattern = fields["nodere"]
        if "node" in fields or not isinstance(pattern, str) or not pattern:
            return True
        try:
            return _found(pattern, node)
        except Refused:
            return True
    name = fields.get("node")
    return not isinstance(name, str) or name in (node, ANY, "")


# Validation.


def _refuse(key: str, value: object, allowed: str) -> NoReturn:
    raise Refused(Reason.INVALID, f"{key} is {show(value)}; allowed is {allowed}")


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        _refuse(key, value, "a string without NUL")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        _refuse(key, value, "a string without lone surrogates")
    return value


def _name(key: str, value: object) -> str:
    text = _text(key, value)
    if not text:
        _refuse(key, value, "a string that is not empty")
    return text


def _requestId(key: str, value: object) -> str:
    text = _name(key, value)
    if len(text) > MAXREQUESTID:
        _refuse(key, value, f"a string of 1 to {MAXREQUESTID} characters")
    return text


def _override(key: str, value: object) -> str | None:
    # As in the original an empty string overrides nothing.
    return _text(key, value) or None


def _pattern(key: str, value: object) -> str:
    pattern = _name(key, value)
    _compile(pattern)
    return pattern


def _names(key: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (_name(key, value),)
    if not isinstance(value, list) or not value:
        _refuse(key, value, "a string or an array of at least one string")
    names = (_name(f"{key}[{i}]", each) for i, each in enumerate(value))
    return tuple(dict.fromkeys(names))


def _integer(lowest: int, highest: int | None, key: str, value: object) -> int:
    if (
        type(value) is not int
        or value < lowest
        or (highest is not None and value > highest)
    ):
        bounds = f"{lowest} to {highest}" if highest else f"{lowest} or more"
        _refuse(key, value, f"an integer, {bounds}")
    return value


def _seconds(key: str, value: object) -> float:
    allowed = "a finite number of seconds above 0"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _refuse(key, value, allowed)
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or seconds <= 0:
        _refuse(key, value, allowed)
    return seconds


def _direction(key: str, value: object) -> str:
    if value not in (Direction.IN, Direction.OUT, Direction.BOTH):
        _refuse(key, value, "'in', 'out' or 'both'")
    return str(value)


def _switch(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        _refuse(key, value, "true or false")
    return value


_positive = partial(_integer, 1, None)

#: Key to attribute and what checks it.
_RULES: dict[str, tuple[str, Callable[[str, object], object]]] = {
    "node": ("node", _name),
    "nodere": ("nodere", _pattern),
    "interface": ("interfaces", _names),
    "alias": ("aliases", _names),
    "bpf": ("filter", _text),
    "direction": ("direction", _direction),
    "snap": ("snaplength", partial(_integer, 1, MAXSNAPLENGTH)),
    "packets": ("packets", _positive),
    "bytes": ("size", _positive),
    "timeout": ("timeout", _seconds),
    "duration": ("duration", _seconds),
    "tags": ("tags", _text),
    "customer": ("customer", _text),
    "alertid": ("alertid", partial(_integer, -(2**63), 2**63 - 1)),
    "request_id": ("request_id", _requestId),
    "packetdebug": ("packetdebug", _switch),
    "logrequest": ("logrequest", _switch),
    "folder": ("folder", _override),
    "bucket": ("bucket", _override),
    "acl": ("acl", _override),
    "region": ("region", _override),
    "endpoint": ("endpoint", _override),
    "encryption": ("encryption", _switch),
}

#: The keys of a request.
KEYS = tuple(_RULES)


def _exactlyOne(fields: Mapping[str, Any], one: str, other: str) -> None:
    if (one in fields) == (other in fields):
        found = "both are given" if one in fields else "neither is given"
        raise Refused(
            Reason.INVALID, f"{one}, {other}: {found}; allowed is exactly one"
        )


def cancelled(fields: Mapping[str, Any]) -> str | None:
    """
    What a message wants ended, where it asks for that and not for a capture.

    @return: The identifier of a capture, or the C{request_id} of captures;
        C{None} where the message has no key C{cancel}.
    @raise Refused: Something is wrong with it (C{invalid}).
    """
    if "cancel" not in fields:
        return None
    _exactlyOne(fields, "node", "nodere")
    for key in ("node", "nodere"):
        if key in fields:
            _RULES[key][1](key, fields[key])
    for key in ("interface", "alias"):
        if key in fields:
            _refuse("cancel", fields["cancel"], f"a message without {key}")
    return _requestId("cancel", fields["cancel"])


def parse(fields: Mapping[str, Any]) -> CaptureRequest:
    """
    Check everything that can be checked without configuration.

    @raise Refused: Something is wrong with it (C{invalid}); the detail names
        the first such key.
    """
    _exactlyOne(fields, "node", "nodere")
    _exactlyOne(fields, "interface", "alias")
    # Together with a device it is always wrong.
    cancelled(fields)
    values: dict[str, Any] = {}
    ignored: list[str] = []
    for key, value in fields.items():
        rule = _RULES.get(key)
        if rule is not None:
            attribute, check = rule
            values[attribute] = check(key, value)
        elif len(ignored) < _NAMES:
            ignored.append(_printable(key))
    return CaptureRequest(**values, ignored=tuple(ignored))
