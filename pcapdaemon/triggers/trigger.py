# See LICENSE for details.
"""
One trigger of the configuration: which alerts it is for, and what request each
of them becomes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import re2

from pcapdaemon import request
from pcapdaemon.interfaces import Reason, Refused
from pcapdaemon.request import show
from pcapdaemon.triggers.alert import NAMES, Alert
from pcapdaemon.triggers.template import GUARDS, BadTemplate, Template, compile

# Which alerts.

_MATCHER = re.compile(
    r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*(=~|!~|!=|=)\s*(?:\"([^\"]*)\"|([^\"]*?))\s*"
)

_options = re2.Options()
_options.log_errors = False


@attrs.frozen
class Matcher:
    """
    A condition on one label, as Alertmanager writes it: C{name = value},
    C{!=}, C{=~} and C{!~}. A label that is missing is empty. Expressions are
    RE2's and must match the whole label.
    """

    label: str
    _holds: Callable[[str], bool]

    @classmethod
    def read(cls, text: str) -> Matcher:
        """
        @raise ValueError: It is none; the text says why.
        """
        match = _MATCHER.fullmatch(text)
        if match is None:
            raise ValueError("LABEL, then =, !=, =~ or !~, then a value")
        label, operator = match[1], match[2]
        value = match[3] if match[3] is not None else match[4]
        if operator in ("=", "!="):
            equal = operator == "="
            return cls(label, lambda found: (found == value) is equal)
        try:
            pattern = re2.compile(value, _options)
        except re2.error as error:
            why = error.args[0].decode("utf-8", "replace")
            raise ValueError(f"a RE2 expression after {operator} ({why})") from None
        wanted = operator == "=~"
        return cls(label, lambda found: bool(pattern.fullmatch(found)) is wanted)

    def matches(self, labels: Mapping[str, str]) -> bool:
        return self._holds(labels.get(self.label, ""))


# What request.


def _whole(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,19}", text.strip()):
        raise BadTemplate(f"{show(text)} is no integer")
    return int(text)


def _number(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,19}(\.[0-9]{1,19})?", text.strip()):
        raise BadTemplate(f"{show(text)} is no number")
    return float(text)


def _switch(text: str) -> bool:
    if text.strip() not in ("true", "false"):
        raise BadTemplate(f"{show(text)} is neither true nor false")
    return text.strip() == "true"


#: What makes a value of a template's text, and a text that it could be, where not
#: any text will do.
_KINDS: Mapping[str, tuple[Callable[[str], object], str]] = {
    **dict.fromkeys(("snap", "packets", "bytes", "alertid"), (_whole, "1")),
    **dict.fromkeys(("timeout", "duration"), (_number, "1")),
    **dict.fromkeys(("packetdebug", "logrequest", "encryption"), (_switch, "true")),
    "direction": (str, "in"),
}


@attrs.frozen
class _Value:
    """
    One value of a request.

    @ivar fill: Makes it, given what makes text of a template.
    @ivar constant: Whether it does not depend on the alert.
    """

    fill: Callable[[Callable[[Template], str]], object]
    constant: bool


def _value(key: str, given: object) -> _Value:
    """
    @param given: The value of the configuration.
    @raise BadTemplate: It is none for a request; the text is what follows
        "must be".
    """
    guards = GUARDS.get(key, ())
    if isinstance(given, str):
        template = compile(given, NAMES, guards)
        convert = _KINDS.get(key, (str, ""))[0]
        return _Value(lambda text: convert(text(template)), template.constant)
    if isinstance(given, list):
        if not all(isinstance(each, str) for each in given):
            raise BadTemplate("an array of texts")
        templates = [compile(each, NAMES, guards) for each in given]
        constant = all(template.constant for template in templates)
        return _Value(lambda text: [text(each) for each in templates], constant)
    if isinstance(given, (bool, int, float)):
        return _Value(lambda text: given, True)
    raise BadTemplate("text, a number, true, false or an array of texts")


@attrs.frozen
class Trigger:
    """
    What becomes of alerts.

    @ivar name: Its name.
    @ivar statuses: Which statuses of alerts count.
    @ivar matchers: What must hold of their labels.
    @ivar cooldown: Seconds in which the same alert counts once...
    @ivar most: ...and so many alerts in all.
    """

    name: str
    statuses: Sequence[str]
    matchers: Sequence[Matcher]
    cooldown: float
    most: int
    _values: Mapping[str, _Value]

    def request(self, alert: Alert) -> dict[str, Any]:
        """
        The request that an alert becomes: fields of a message.

        @raise Refused: A template cannot be filled in (C{invalid}).
        """
        fields: dict[str, Any] = {"alertid": alert.number}
        for key, value in self._values.items():
            try:
                fields[key] = value.fill(lambda t: t.render(alert.values))
            except BadTemplate as error:
                raise Refused(
                    Reason.INVALID, f"trigger {self.name}: {key}: {error}"
                ) from None
        return fields


def _possible(values: Mapping[str, _Value]) -> dict[str, Any]:
    """
    A request that templates could become, to have the rest of it checked.
    """

    def filled(key: str, value: _Value) -> object:
        return value.fill(
            lambda t: t.render({}) if t.constant else _KINDS.get(key, (str, "x"))[1]
        )

    return {key: filled(key, value) for key, value in values.items()}


@attrs.frozen
class Mistake:
    """
    Something wrong with a trigger's configuration.

    @ivar key: The key, with C{request.} before it where it is in that table.
    @ivar said: What is wrong, as a sentence goes on.
    @ivar value: What stands there; empty for nothing that could be shown.
    """

    key: str
    said: str
    value: tuple[object, ...] = ()


@attrs.define
class _Maker:
    mistakes: list[Mistake] = attrs.Factory(list)

    def matchers(self, texts: Sequence[str]) -> Iterator[Matcher]:
        for text in texts:
            try:
                yield Matcher.read(text)
            except ValueError as error:
                self.mistakes.append(Mistake("match", f"must be {error}", (text,)))

    def values(self, table: Mapping[str, Any]) -> Iterator[tuple[str, _Value]]:
        for key, given in table.items():
            if key not in request.KEYS:
                known = ", ".join(request.KEYS)
                said = f"unknown key of a request; known are {known}"
                self.mistakes.append(Mistake(f"request.{key}", said))
                continue
            try:
                yield key, _value(key, given)
            except BadTemplate as error:
                said = f"must be {error}"
                self.mistakes.append(Mistake(f"request.{key}", said, (given,)))


def makeTrigger(
    name: str,
    match: Sequence[str],
    status: Sequence[str],
    cooldown: float,
    most: int,
    table: Mapping[str, Any],
) -> tuple[Trigger, list[Mistake]]:
    """
    Make a trigger of its configuration.

    @param table: The table C{request}.
    @return: The trigger, and what is wrong with it: then it is not to be used.
    """
    maker = _Maker()
    matchers, values = list(maker.matchers(match)), dict(maker.values(table))
    if not maker.mistakes:
        try:
            request.parse(_possible(values))
        except (Refused, BadTemplate) as error:
            said = error.detail if isinstance(error, Refused) else str(error)
            maker.mistakes.append(Mistake("request", said))
    return Trigger(name, status, matchers, cooldown, most, values), maker.mistakes
