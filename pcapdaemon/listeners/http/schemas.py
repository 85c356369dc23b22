# See LICENSE for details.
"""
What is said over HTTP, as JSON Schema: for L{pcapdaemon.listeners.http.openapi}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pcapdaemon.events import CATALOGUE
from pcapdaemon.interfaces import Direction, Stop
from pcapdaemon.request import MAXPATTERN, MAXREQUESTID, MAXSNAPLENGTH

Schema = dict[str, Any]


def ref(name: str) -> Schema:
    """
    One of L{SCHEMAS}, where it is used.
    """
    return {"$ref": f"#/components/schemas/{name}"}


def thing(
    required: Mapping[str, Schema],
    optional: Mapping[str, Schema] | None = None,
    description: str = "",
) -> Schema:
    """
    An object with these keys, and perhaps others.
    """
    schema: Schema = {"type": "object"}
    if description:
        schema["description"] = description
    if required:
        schema["required"] = list(required)
    return {**schema, "properties": {**required, **(optional or {})}}


def array(items: Schema, **more: Any) -> Schema:
    """
    An array of these.
    """
    return {"type": "array", "items": items, **more}


def text(description: str = "", **more: Any) -> Schema:
    """
    A string.
    """
    described = {"description": description} if description else {}
    return {"type": "string", **described, **more}


def count(description: str = "", least: int = 0, **more: Any) -> Schema:
    """
    A whole number.
    """
    described = {"description": description} if description else {}
    return {"type": "integer", "minimum": least, **described, **more}


def number(description: str = "", **more: Any) -> Schema:
    """
    Any number.
    """
    described = {"description": description} if description else {}
    return {"type": "number", **described, **more}


def words(*values: str) -> Schema:
    """
    One of some strings.
    """
    return {"type": "string", "enum": list(values)}


#: Strings of requests have no NUL.
_CLEAN = "^[^\\u0000]*$"
_NAME = text(minLength=1, pattern=_CLEAN)
_NAMES = {"anyOf": [_NAME, array(_NAME, minItems=1)]}
_FLAG: Schema = {"type": "boolean"}


def _clean(description: str) -> Schema:
    return text(description, pattern=_CLEAN)


def _limit(what: str) -> Schema:
    return number(f"Seconds {what}; bounded by the configuration.", exclusiveMinimum=0)


#: The keys of a request, in their order.
_REQUEST: dict[str, Schema] = {
    "node": text("The host name of a daemon, or any.", minLength=1, pattern=_CLEAN),
    "nodere": text(
        "An RE2 expression that is found in the host name.",
        minLength=1,
        maxLength=MAXPATTERN,
    ),
    "interface": {**_NAMES, "description": "Devices; any is one."},
    "alias": {**_NAMES, "description": "Names that the configuration has for devices."},
    "bpf": _clean("A libpcap filter; empty or missing: all packets."),
    "direction": words(Direction.IN, Direction.OUT, Direction.BOTH),
    "snap": count("Bytes kept of each packet.", 1, maximum=MAXSNAPLENGTH),
    "packets": count("Packets at which to stop; bounded by the configuration.", 1),
    "bytes": count("Bytes of the file at which to stop; likewise.", 1),
    "timeout": _limit("without a packet after which to stop"),
    "duration": _limit("after which to stop"),
    "tags": _clean("Comma-separated metadata."),
    "customer": _clean("Metadata."),
    "alertid": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "request_id": text(
        "Stands in all events of the request.",
        minLength=1,
        maxLength=MAXREQUESTID,
        pattern=_CLEAN,
    ),
    "packetdebug": _FLAG,
    "logrequest": _FLAG,
    **{
        key: _clean("Overrides what [s3] has, where that allows it.")
        for key in ("folder", "bucket", "acl", "region", "endpoint")
    },
    "encryption": _FLAG,
}

_NODE = [{"required": ["node"]}, {"required": ["nodere"]}]
_DEVICE = [{"required": ["interface"]}, {"required": ["alias"]}]

_DROPPED = thing({"kernel": count(), "interface": count()})

_FAILED = thing(
    {"stage": words("capture", "decode", "store"), "reason": text()},
    {"sink": text(), "attempts": count(), "lost": _FLAG},
)

#: Every schema that has a name.
SCHEMAS: dict[str, Schema] = {
    "Problem": thing(
        {
            "reason": text("A stable word."),
            "detail": text("A sentence with key, value and what is allowed."),
        },
        description="Why not.",
    ),
    "Request": {
        **thing({}, _REQUEST, "What is to be captured. Unknown keys are ignored."),
        "allOf": [{"oneOf": _NODE}, {"oneOf": _DEVICE}],
        "not": {"required": ["cancel"]},
    },
    "Cancel": {
        **thing(
            {"cancel": {**_REQUEST["request_id"], "description": "What to end."}},
            {key: _REQUEST[key] for key in ("node", "nodere")},
            "Ends the captures of a request_id, or one by its identifier.",
        ),
        "oneOf": _NODE,
        "not": {"anyOf": _DEVICE},
    },
    "Taken": thing({"ids": array(text(), minItems=1)}),
    "Capture": thing(
        {"id": text(), "state": words(*(set(CATALOGUE) - {"rejected", "progress"}))},
        {
            "packets": count(),
            "bytes": count(),
            "elapsed": number("Seconds since it was armed, while it runs."),
            "dropped": _DROPPED,
            "stop": words(*(v for k, v in vars(Stop).items() if k.isupper())),
            "stored": array(thing({"sink": text(), "url": text()})),
            "failed": array(_FAILED),
            "file": text("The path of its file, if it can be had here."),
        },
        "A capture, with the fields of all its events so far.",
    ),
    "Captures": thing({"captures": array(ref("Capture"))}),
    "Cancelled": thing({"id": text(), "state": {"const": "cancelled"}}),
    "Event": thing(
        {
            "event": words(*CATALOGUE),
            "time": text("In UTC.", format="date-time"),
            "node": text(),
            "id": text("The capture; of rejected, the request."),
        },
        {"request_id": text()},
        "What has happened: docs/events.rst has the further fields of each.",
    ),
    "Gap": thing(
        {"event": {"const": "gap"}, "reason": words("gone", "unknown")},
        {"missed": count("How many events, of all requests.", 1)},
        "Events that cannot be sent any more.",
    ),
    "Refusals": thing({"refusals": array(ref("Event"))}),
    "Interface": thing(
        {
            "name": text(),
            "aliases": array(text()),
            "addresses": array(text()),
            "up": _FLAG,
            "capture": {**_FLAG, "description": "Whether it can be captured on now."},
        },
        {
            "link": count("The DLT_ number."),
            "linkname": text(),
            "why": text("Why it cannot."),
        },
    ),
    "Interfaces": thing(
        {"interfaces": array(ref("Interface"))},
        {
            "limits": {
                "type": "object",
                "description": "Keys of [general]: what requests may ask for, and"
                " what they get where they do not ask.",
                "additionalProperties": {"type": "number"},
            }
        },
    ),
    "Filter": {
        **thing(
            {},
            {key: _REQUEST[key] for key in ("bpf", "interface", "alias", "snap")},
            "A filter and where it is for; other keys are ignored.",
        ),
        "oneOf": _DEVICE,
    },
    "Judgement": thing(
        {
            "bpf": text("As it came."),
            "seconds": number("What the look took.", minimum=0),
            "links": array(
                thing({"link": count(), "linkname": text(), "filter": text()}),
                minItems=1,
            ),
        },
        {
            "missing": array(text("A device or alias that is not there.")),
            "site": text("The filter that every capture is subject to."),
        },
    ),
    "Health": thing(
        {
            "status": words("ok", "degraded"),
            "version": text(),
            "node": text(),
            "running": count("Captures."),
            "memory": thing({"used": count(), "total": count()}),
            "listeners": {"type": "object", "additionalProperties": _FLAG},
            "sinks": {
                "type": "object",
                "additionalProperties": thing(
                    {
                        "stored": count(),
                        "failed": count(),
                        "state": words("ok", "failing", "unused"),
                    }
                ),
            },
            "buses": {
                "type": "object",
                "description": "Where events go.",
                "additionalProperties": thing(
                    {
                        "connected": _FLAG,
                        "published": count(),
                        "waiting": count(),
                        "dropped": count(),
                    }
                ),
            },
            "spool": {"type": "object", "additionalProperties": count()},
        }
    ),
    "Notification": thing(
        {
            "alerts": array(
                thing(
                    {"status": words("firing", "resolved")},
                    {
                        "labels": {"type": "object", "additionalProperties": text()},
                        "annotations": {
                            "type": "object",
                            "additionalProperties": text(),
                        },
                        "fingerprint": text(),
                    },
                )
            )
        },
        description="What Prometheus Alertmanager posts (version 4).",
    ),
    "Outcomes": thing(
        {
            "alerts": array(
                thing(
                    {
                        "fingerprint": text(),
                        "outcome": words("taken", "refused", "not-ours", "skipped"),
                    },
                    {"ids": array(text()), "reason": text(), "detail": text()},
                )
            )
        }
    ),
}
