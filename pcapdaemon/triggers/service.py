# See LICENSE for details.
"""
From a notification to requests, each alert at most once in a while.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
from zope.interface import implementer

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from pcapdaemon.interfaces import (
    Answer,
    IMessageReceiver,
    ITriggers,
    Outcome,
    Refused,
    Verdict,
)
from pcapdaemon.request import decode
from pcapdaemon.triggers.alert import Alert, readAlerts

if TYPE_CHECKING:
    from pcapdaemon.triggers.trigger import Trigger

#: What the bus is called for requests that triggers make.
BUS = "trigger"

#: So many alerts are looked at before others have a turn: some milliseconds.
_TURN = 20


@attrs.define
class _Memory:
    """
    Which alerts a trigger has honoured of late: never more than its C{most}.

    @ivar when: When it did that, the first one first.
    """

    when: dict[tuple[str, str], float] = attrs.Factory(dict)

    def forget(self, now: float, cooldown: float) -> None:
        """
        Forget what is so long ago that it does not count any more. A notification
        may have a thousand alerts: not all is looked at for each.
        """
        while self.when:
            key, when = next(iter(self.when.items()))
            # One from the future is from before the clock was set back.
            if 0 <= now - when < cooldown:
                break
            del self.when[key]


@implementer(ITriggers)
class Triggers:
    """
    All triggers of a configuration.
    """

    _log = Logger()

    def __init__(
        self,
        receiver: IMessageReceiver,
        refuse: Callable[[Refused, Mapping[str, Any], str], Answer],
        clock: Callable[[], float],
        pause: Callable[[], Deferred[None]] = lambda: succeed(None),
    ) -> None:
        """
        @param receiver: Who takes the requests.
        @param refuse: Tells of what cannot become a request.
        @param clock: Seconds, from whenever.
        @param pause: Its Deferred fires when others have had their turn.
        """
        self._receiver = receiver
        self._refuse = refuse
        self._clock = clock
        self._pause = pause
        self._triggers: dict[str, Trigger] = {}
        self._memories: dict[str, _Memory] = {}

    def configure(self, triggers: Iterable[Trigger]) -> None:
        """
        Go by other triggers from now on; what those of the same name have
        honoured is not forgotten.
        """
        self._triggers = {trigger.name: trigger for trigger in triggers}
        self._memories = {
            name: self._memories.get(name) or _Memory() for name in self._triggers
        }

    def names(self) -> tuple[str, ...]:
        return tuple(self._triggers)

    def notify(self, name: str, message: bytes) -> Deferred[list[Outcome]]:
        trigger, memory = self._triggers[name], self._memories[name]
        return Deferred.fromCoroutine(self._notify(trigger, memory, message))

    async def _notify(
        self, trigger: Trigger, memory: _Memory, message: bytes
    ) -> list[Outcome]:
        try:
            alerts = readAlerts(decode(message))
        except Refused as refused:
            detail = f"trigger {trigger.name}: {refused.detail}"
            told = Refused(refused.reason, detail)
            self._refuse(told, {}, BUS)
            raise told from None
        # One after the other: a notification is one sender.
        outcomes = []
        for alert in alerts:
            outcomes.append(await self._look(trigger, memory, alert))
            if len(outcomes) % _TURN == 0:
                await self._pause()
        return outcomes

    async def _look(self, trigger: Trigger, memory: _Memory, alert: Alert) -> Outcome:
        skipped = self._skipped(trigger, memory, alert)
        if skipped is not None:
            self._log.debug(
                "trigger {name}: alert {fingerprint} skipped: {reason}",
                name=trigger.name,
                fingerprint=alert.fingerprint,
                reason=skipped[0],
            )
            return Outcome(alert.fingerprint, "skipped", (), *skipped)
        key = (alert.fingerprint, alert.status)
        # Before it is known what comes of it: the next notification may be here
        # sooner than that.
        memory.when.pop(key, None)
        memory.when[key] = when = self._clock()
        answer = await self._ask(trigger, alert)
        if answer.verdict is not Verdict.TAKEN and memory.when.get(key) == when:
            del memory.when[key]
        return Outcome(
            alert.fingerprint,
            answer.verdict.value,
            answer.ids,
            answer.reason,
            answer.detail,
        )

    def _skipped(
        self, trigger: Trigger, memory: _Memory, alert: Alert
    ) -> tuple[str, str] | None:
        """
        @return: What keeps an alert from becoming a request, as a word and as a
            sentence.
        """
        if alert.status not in trigger.statuses:
            return "status", f"it is {alert.status}"
        for matcher in trigger.matchers:
            if not matcher.matches(alert.labels):
                return "match", f"its label {matcher.label} does not match"
        now, cooldown = self._clock(), trigger.cooldown
        memory.forget(now, cooldown)
        when = memory.when.get((alert.fingerprint, alert.status))
        if when is not None and 0 <= now - when < cooldown:
            return "cooldown", (
                f"it was honoured {now - when:.1f} s ago; cooldown is {cooldown} s"
            )
        if len(memory.when) >= trigger.most:
            return "most", (
                f"{len(memory.when)} alerts were honoured within cooldown, {cooldown} "
                f"s; most is {trigger.most}"
            )
        return None

    async def _ask(self, trigger: Trigger, alert: Alert) -> Answer:
        try:
            fields = trigger.request(alert)
        except Refused as refused:
            return self._refuse(refused, {"alertid": alert.number}, BUS)
        return await self._receiver.receive(json.dumps(fields).encode(), BUS)
