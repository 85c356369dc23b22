# See LICENSE for details.
"""
What Prometheus Alertmanager says in a notification, version 4.

Only what is used is looked at, and that strictly; what a later version adds
does not matter.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import attrs

from pcapdaemon.interfaces import Reason, Refused
from pcapdaemon.request import show

#: The version of notifications that is understood.
VERSION = "4"
#: The most alerts of one notification.
MAXALERTS = 1000

FIRING, RESOLVED = "firing", "resolved"

#: What a template may name: texts of the alert itself, tables of texts of it,
#: and the same of its notification.
_TEXTS = ("status", "startsAt", "endsAt", "generatorURL", "fingerprint")
_TABLES = ("labels", "annotations")
_SHARED_TEXTS = ("receiver", "groupKey", "externalURL")
_SHARED_TABLES = ("groupLabels", "commonLabels", "commonAnnotations")
NAMES = _TEXTS + _TABLES + _SHARED_TEXTS + _SHARED_TABLES

_FINGERPRINT = re.compile(r"[0-9a-f]{1,16}")


@attrs.frozen
class Alert:
    """
    One alert of a notification.

    @ivar status: L{FIRING} or L{RESOLVED}.
    @ivar labels: What tells it from others.
    @ivar fingerprint: The same as up to 16 hexadecimal digits.
    @ivar values: What each of L{NAMES} means for it: text, or a mapping of texts.
    """

    status: str
    labels: Mapping[str, str]
    fingerprint: str
    values: Mapping[str, Any]

    @property
    def number(self) -> int:
        """The fingerprint as an C{alertid} can have it: 63 bits."""
        return int(self.fingerprint, 16) & (2**63 - 1)


def _refuse(key: str, value: object, allowed: str) -> NoReturn:
    raise Refused(Reason.INVALID, f"{key} is {show(value)}; allowed is {allowed}")


def _checked(name: str, value: object) -> str:
    if not isinstance(value, str):
        _refuse(name, value, "a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        _refuse(name, value, "a string without lone surrogates")
    return value


def _text(fields: Mapping[str, Any], where: str, key: str) -> str:
    return _checked(f"{where}{key}", fields.get(key, ""))


def _table(fields: Mapping[str, Any], where: str, key: str) -> dict[str, str]:
    table = fields.get(key, {})
    if not isinstance(table, dict):
        _refuse(f"{where}{key}", table, "an object of strings")
    for name, value in table.items():
        _checked(f"{where}{key}.{show(name)[1:-1]}", value)
    return table


def _fingerprint(given: str, where: str, labels: Mapping[str, str]) -> str:
    if not given:
        # An old Alertmanager, or a hand: the labels are what makes an alert.
        text = json.dumps(labels, sort_keys=True).encode()
        return hashlib.sha256(text).hexdigest()[:16]
    if not _FINGERPRINT.fullmatch(given):
        _refuse(f"{where}fingerprint", given, "up to 16 hexadecimal digits, 0-9a-f")
    return given


def readAlerts(fields: Mapping[str, Any]) -> list[Alert]:
    """
    Take a notification apart.

    @param fields: The JSON object.
    @raise Refused: It is no notification (C{invalid}), or has too many alerts
        (C{limit}); the detail names the key.
    """
    if fields.get("version") != VERSION:
        _refuse(
            "version",
            fields.get("version"),
            f"'{VERSION}', as Alertmanager's webhook has it",
        )
    alerts = fields.get("alerts")
    if not isinstance(alerts, list):
        _refuse("alerts", alerts, "an array of objects")
    if len(alerts) > MAXALERTS:
        raise Refused(
            Reason.LIMIT,
            f"alerts has {len(alerts)} elements; allowed are {MAXALERTS} "
            "(max_alerts of the webhook_config bounds them)",
        )
    shared = {
        **{key: _text(fields, "", key) for key in _SHARED_TEXTS},
        **{key: _table(fields, "", key) for key in _SHARED_TABLES},
    }
    return [_read(each, f"alerts[{i}]", shared) for i, each in enumerate(alerts)]


def _read(fields: object, name: str, shared: Mapping[str, Any]) -> Alert:
    if not isinstance(fields, dict):
        _refuse(name, fields, "an object")
    where = f"{name}."
    values: dict[str, Any] = {
        **shared,
        **{key: _text(fields, where, key) for key in _TEXTS},
        **{key: _table(fields, where, key) for key in _TABLES},
    }
    status, labels = values["status"], values["labels"]
    if status not in (FIRING, RESOLVED):
        _refuse(f"{where}status", status, f"'{FIRING}' or '{RESOLVED}'")
    fingerprint = _fingerprint(values["fingerprint"], where, labels)
    values["fingerprint"] = fingerprint
    return Alert(status, labels, fingerprint, values)
