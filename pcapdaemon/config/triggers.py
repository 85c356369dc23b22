# See LICENSE for details.
"""
The tables C{[[trigger]]}.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from pcapdaemon.config.rules import Rule, integer, key, seconds, text, texts
from pcapdaemon.interfaces import StartError

if TYPE_CHECKING:
    from pcapdaemon.triggers.trigger import Mistake, Trigger


def _acceptStatus(value: str) -> str:
    if value not in ("firing", "resolved"):
        raise ValueError
    return value


def _acceptMatcher(value: str) -> str:
    # What is wrong with one is told when the trigger is made.
    return value


def _acceptTable(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not value:
        raise ValueError
    return MappingProxyType(value)


@attrs.frozen
class TriggerSettings:
    """
    One C{[[trigger]]}: alerts by HTTP that become requests.

    @ivar name: What the path ends with.
    @ivar match: What must hold of an alert's labels.
    @ivar status: Which statuses of alerts count.
    @ivar cooldown: Seconds in which the same alert counts once...
    @ivar most: ...and so many alerts in all.
    @ivar request: The request that an alert becomes, texts being templates.
    """

    name: str = key(
        "",
        text(
            "1 to 64 letters, digits, dots, dashes and underscores",
            r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
        ),
    )
    match: tuple[str, ...] = key(
        (), texts("""an array of matchers like 'severity = "page"'""", _acceptMatcher)
    )
    status: tuple[str, ...] = key(
        ("firing",), texts('an array of "firing" and "resolved"', _acceptStatus)
    )
    cooldown: float = key(900, seconds(zero=False))
    most: int = key(10, integer(1, 10_000))
    request: Mapping[str, Any] = key(
        MappingProxyType({}),
        Rule("a table, [trigger.request], with the keys of a request", _acceptTable),
    )


def make(settings: TriggerSettings) -> tuple[Trigger, list[Mistake]]:
    """
    Make a trigger, and say what is wrong with it.
    """
    # Templates are for those who have triggers.
    from pcapdaemon.triggers.trigger import makeTrigger

    return makeTrigger(
        settings.name,
        settings.match,
        settings.status,
        settings.cooldown,
        settings.most,
        settings.request,
    )


def makeAll(settings: Iterable[TriggerSettings]) -> list[Trigger]:
    """
    Make triggers of settings that a program may have made itself.

    @raise StartError: Something is wrong with them.
    """
    triggers = []
    for each in settings:
        trigger, mistakes = make(each)
        for mistake in mistakes:
            raise StartError(f"[[trigger]] {each.name} {mistake.key}: {mistake.said}")
        triggers.append(trigger)
    return triggers
