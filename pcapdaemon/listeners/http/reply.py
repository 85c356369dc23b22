# See LICENSE for details.
"""
What the HTTP listener answers: JSON, always in the same form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import attrs

from pcapdaemon.interfaces import Answer, Reason, Verdict

#: Seconds after which a refusal for want of room may be tried again.
RETRY_AFTER = 5

#: The status for each reason of a refused request.
STATUSES: Mapping[str, HTTPStatus] = {
    Reason.MALFORMED: HTTPStatus.BAD_REQUEST,
    Reason.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Reason.INVALID: HTTPStatus.UNPROCESSABLE_ENTITY,
    Reason.LIMIT: HTTPStatus.UNPROCESSABLE_ENTITY,
    Reason.UNKNOWN_INTERFACE: HTTPStatus.UNPROCESSABLE_ENTITY,
    Reason.UNKNOWN_ALIAS: HTTPStatus.UNPROCESSABLE_ENTITY,
    Reason.BAD_FILTER: HTTPStatus.UNPROCESSABLE_ENTITY,
    Reason.TOO_COMPLEX: HTTPStatus.UNPROCESSABLE_ENTITY,
    Reason.BUSY: HTTPStatus.TOO_MANY_REQUESTS,
    Reason.DUPLICATE: HTTPStatus.CONFLICT,
    Reason.UNAUTHORIZED: HTTPStatus.UNAUTHORIZED,
    Reason.CLOSING: HTTPStatus.SERVICE_UNAVAILABLE,
}


@attrs.frozen
class Reply:
    """
    One answer.

    @ivar code: The status.
    @ivar body: What becomes the JSON object.
    @ivar headers: Headers beyond those that every answer has.
    """

    code: HTTPStatus
    body: Mapping[str, Any]
    headers: Mapping[str, str] = attrs.field(factory=dict)

    def encoded(self) -> bytes:
        """
        The body as it goes over the wire: a line of UTF-8.
        """
        text = json.dumps(self.body, ensure_ascii=False) + "\n"
        # Half a surrogate pair cannot be UTF-8, but as \udXXX it is JSON.
        return text.encode("utf-8", "backslashreplace")


def problem(
    code: HTTPStatus,
    reason: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """
    An answer that says no.

    @param reason: A stable word.
    @param detail: A sentence.
    """
    return Reply(code, {"reason": reason, "detail": detail}, headers or {})


def unauthorized(detail: str) -> Reply:
    """
    An answer that asks for the token.
    """
    return problem(
        HTTPStatus.UNAUTHORIZED,
        Reason.UNAUTHORIZED,
        detail,
        {"WWW-Authenticate": "Bearer"},
    )


def replyTo(answer: Answer) -> Reply:
    """
    Say in HTTP what a message receiver said of a request.
    """
    if answer.verdict is Verdict.TAKEN:
        return Reply(
            HTTPStatus.ACCEPTED,
            {"ids": list(answer.ids)},
            {"Location": f"/captures/{answer.ids[0]}"},
        )
    if answer.verdict is Verdict.NOT_OURS:
        return problem(
            HTTPStatus.MISDIRECTED_REQUEST,
            Verdict.NOT_OURS.value,
            "the request is for another node",
        )
    if answer.reason == Reason.UNAUTHORIZED:
        return unauthorized(answer.detail)
    headers = {}
    if answer.reason in (Reason.BUSY, Reason.CLOSING):
        headers["Retry-After"] = str(RETRY_AFTER)
    return problem(STATUSES[answer.reason], answer.reason, answer.detail, headers)
