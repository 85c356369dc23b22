# See LICENSE for details.
"""
What the HTTP listener answers: as a rule JSON, always in the same form.

A route returns one of four things: a L{Reply} (JSON), a L{Content} (any bytes), or,
of L{pcapdaemon.listeners.http.streams}, a C{Download} (a file, or a range of it,
that is never in one piece in memory) or a C{Stream} (events without end).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from pcapdaemon.interfaces import Answer, Reason, Verdict

if TYPE_CHECKING:
    from pcapdaemon.listeners.http.site import ApiRequest

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


class Answering(Protocol):
    """
    Anything that a route can answer with.
    """

    @property
    def code(self) -> HTTPStatus:
        """The status."""

    @property
    def kind(self) -> str:
        """The content type."""

    @property
    def headers(self) -> Mapping[str, str]:
        """
        Headers beyond those that every answer has, or in their place: all have
        C{Cache-Control: no-store} and C{X-Content-Type-Options: nosniff}.
        """

    def send(self, request: ApiRequest) -> None:
        """
        Send the body, and finish, now or later. Called once, when status and
        headers are set, with a client that still listens.
        """


@attrs.frozen
class Reply:
    """
    One answer in JSON.

    @ivar code: The status.
    @ivar body: What becomes the JSON object.
    @ivar headers: Headers beyond those that every answer has.
    """

    code: HTTPStatus
    body: Mapping[str, Any]
    headers: Mapping[str, str] = attrs.field(factory=dict)
    kind: str = attrs.field(default="application/json", init=False)

    def encoded(self) -> bytes:
        """
        The body as it goes over the wire: a line of UTF-8.
        """
        text = json.dumps(self.body, ensure_ascii=False) + "\n"
        # Half a surrogate pair cannot be UTF-8, but as \udXXX it is JSON.
        return text.encode("utf-8", "backslashreplace")

    def send(self, request: ApiRequest) -> None:
        """
        Send it whole.
        """
        request.sendWhole(self.encoded())


@attrs.frozen
class Content:
    """
    An answer that is not JSON: a page, a picture, metrics.

    @ivar body: The bytes.
    @ivar kind: The content type, with its charset if it is text.
    @ivar headers: Headers beyond those that every answer has, or in their place:
        C{Content-Security-Policy}, C{Cache-Control}.
    @ivar etag: Names these very bytes, if anything does: who has them already
        (C{If-None-Match}) gets status 304. Without the quotes.
    """

    body: bytes = attrs.field(repr=False)
    kind: str
    headers: Mapping[str, str] = attrs.field(factory=dict)
    etag: str = ""
    code: HTTPStatus = HTTPStatus.OK

    def send(self, request: ApiRequest) -> None:
        """
        Send it whole, unless the client has it.
        """
        if self.etag and request.isKnown(self.etag):
            request.finish()
        else:
            request.sendWhole(self.body)


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
