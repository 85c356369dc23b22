# See LICENSE for details.
# mypy: allow-untyped-calls
"""
Where Alertmanager, and whatever speaks like it, posts its notifications.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from twisted.internet.defer import Deferred
from twisted.web.resource import Resource

from pcapdaemon.interfaces import (
    IMessageReceiver,
    ITriggers,
    Outcome,
    Reason,
    Refused,
)
from pcapdaemon.listeners.http.reply import RETRY_AFTER, STATUSES, Reply, problem
from pcapdaemon.listeners.http.resource import ApiResource, NotFound, wrongType
from pcapdaemon.listeners.http.site import ApiRequest

_BUS = "trigger"

#: Refusals that pass.
_TRANSIENT = (Reason.BUSY, Reason.CLOSING)


def _body(outcome: Outcome) -> dict[str, Any]:
    body: dict[str, Any] = {
        "fingerprint": outcome.fingerprint,
        "outcome": outcome.outcome,
    }
    if outcome.ids:
        body["ids"] = list(outcome.ids)
    if outcome.reason:
        body.update(reason=outcome.reason, detail=outcome.detail)
    return body


def replyTo(outcomes: list[Outcome]) -> Reply:
    """
    Say in HTTP what became of a notification. Alertmanager repeats it after a 5xx
    alone (not after 429), and counts a 4xx as failed.
    """
    body = {"alerts": [_body(outcome) for outcome in outcomes]}
    refused = [each.reason for each in outcomes if each.outcome == "refused"]
    if any(reason in _TRANSIENT for reason in refused):
        headers = {"Retry-After": str(RETRY_AFTER)}
        return Reply(HTTPStatus.SERVICE_UNAVAILABLE, body, headers)
    # Taken a while ago, for another alert: nothing that anybody should look into.
    if any(reason != Reason.DUPLICATE for reason in refused):
        return Reply(HTTPStatus.UNPROCESSABLE_ENTITY, body)
    if any(each.outcome == "taken" for each in outcomes):
        return Reply(HTTPStatus.ACCEPTED, body)
    return Reply(HTTPStatus.OK, body)


class Triggers(ApiResource):
    """
    C{/triggers}: nothing but what is below.
    """

    def __init__(self, triggers: ITriggers, receiver: IMessageReceiver) -> None:
        super().__init__()
        self._triggers = triggers
        self._receiver = receiver

    def getChild(self, path: bytes, request: ApiRequest) -> Resource:
        """
        One of the triggers.
        """
        name = path.decode("utf-8", "replace")
        if name in self._triggers.names():
            return Trigger(name, self._triggers, self._receiver)
        return NotFound()

    def render(self, request: ApiRequest) -> int:
        """
        There is nothing here.
        """
        return NotFound().render(request)


class Trigger(ApiResource):
    """
    C{/triggers/NAME}: one trigger.
    """

    def __init__(
        self, name: str, triggers: ITriggers, receiver: IMessageReceiver
    ) -> None:
        super().__init__()
        self._name = name
        self._triggers = triggers
        self._receiver = receiver

    def unauthorized(self, request: ApiRequest) -> None:
        """
        Who asks for captures in vain shall be found among the events.
        """
        if request.method == b"POST":
            self._receiver.unauthorized(_BUS)

    def render_POST(self, request: ApiRequest) -> Reply | Deferred[Reply]:
        """
        Take a notification.
        """
        wrong = wrongType(request)
        if wrong is not None:
            return wrong
        if request.cutOff:
            answer = self._receiver.oversized(request.cutOff, _BUS)
            return problem(STATUSES[answer.reason], answer.reason, answer.detail)
        outcomes = self._triggers.notify(self._name, request.content.read())
        return outcomes.addCallbacks(replyTo, self._refused)

    @staticmethod
    def _refused(failure: Any) -> Reply:
        failure.trap(Refused)
        refused = failure.value
        return problem(STATUSES[refused.reason], refused.reason, refused.detail)
