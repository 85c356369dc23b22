# See LICENSE for details.
# mypy: allow-untyped-calls
"""
The routes, described for programs: OpenAPI 3.1.
"""

from __future__ import annotations

from collections.abc import Container
from http import HTTPStatus
from typing import Any

from twisted.web.resource import Resource

from pcapdaemon import __version__
from pcapdaemon.listeners.http.reply import Reply
from pcapdaemon.listeners.http.resource import ApiResource
from pcapdaemon.listeners.http.schemas import SCHEMAS, ref, text
from pcapdaemon.listeners.http.site import ApiRequest
from pcapdaemon.request import MAXREQUESTID

#: Answers that any request may get: of the guard, and of a daemon with a fault.
_COMMON = {403: "It comes from where nobody should ask.", 500: "A fault."}

_ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "The identifier of a capture.",
    "schema": {"type": "string", "minLength": 1},
}
_RETRY = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}

_KNOWN = {"description": "The client has it."}

#: What the files of the page are.
_PAGE_KINDS = ("text/css", "text/javascript", "image/svg+xml")

#: The answers to a body that is not what it should be.
_BODY = {
    400: "It is not JSON.",
    413: "It is too large.",
    415: "It does not say that it is JSON.",
}


def _json(description: str, schema: str, **headers: Any) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": description,
        "content": {"application/json": {"schema": ref(schema)}},
    }
    return {**answer, "headers": headers} if headers else answer


def _other(description: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"description": description, "content": {kind: {}}, **more}


def _operation(
    name: str,
    summary: str,
    answers: dict[int, Any],
    *,
    body: Any = None,
    problems: dict[int, str] | None = None,
    parameters: list[Any] | None = None,
    public: bool = False,
) -> dict[str, Any]:
    """
    @param problems: Those of its answers that say why not.
    @param public: Whether it needs no token.
    """
    problems = {**_COMMON, **({} if body is None else _BODY), **(problems or {})}
    if not public:
        problems[401] = "It needs the token."
    said = {code: _json(why, "Problem") for code, why in problems.items()}
    for code in said.keys() & {429, 503}:
        said[code]["headers"] = _RETRY
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "responses": {
            str(code): one for code, one in sorted({**said, **answers}.items())
        },
    }
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        content = {"application/json": {"schema": body}}
        operation["requestBody"] = {"required": True, "content": content}
    if public:
        operation["security"] = []
    return operation


def _query(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "description": description,
        "schema": {"type": "string", **schema},
    }


def paths() -> dict[str, dict[str, Any]]:
    """
    Every path with its methods.
    """
    unknown = {404: "There is no such capture, or it is long gone."}
    refused = {
        409: "The same trigger was taken a short while ago.",
        422: "It cannot be honoured.",
        429: "There is no room now.",
        503: "The daemon closes.",
    }
    return {
        "/": {
            "get": _operation(
                "showPage",
                "A page for people.",
                {200: _other("The page.", "text/html"), 304: _KNOWN},
                public=True,
            )
        },
        "/captures": {
            "get": _operation(
                "listCaptures",
                "Running captures, and the last ones that are over.",
                {200: _json("Oldest first.", "Captures")},
            ),
            "post": _operation(
                "requestCaptures",
                "Ask for captures, or end some.",
                {
                    202: _json(
                        "They begin, or end.",
                        "Taken",
                        Location={
                            "schema": text(),
                            "description": "The first of them.",
                        },
                    )
                },
                body={"anyOf": [ref("Request"), ref("Cancel")]},
                problems={**refused, 421: "It is for another node."},
            ),
        },
        "/captures/{id}": {
            "get": _operation(
                "showCapture",
                "One capture.",
                {200: _json("All that is known of it.", "Capture")},
                problems=unknown,
                parameters=[_ID],
            ),
            "delete": _operation(
                "cancelCapture",
                "End a capture and keep what it holds.",
                {202: _json("It ends.", "Cancelled")},
                problems={**unknown, 409: "It has ended already."},
                parameters=[_ID],
            ),
        },
        "/captures/{id}/file": {
            "get": _operation(
                "downloadFile",
                "The pcap of a capture that is over.",
                {
                    200: _other(
                        "The file; its ETag is its SHA-256.",
                        "application/vnd.tcpdump.pcap",
                    ),
                    206: _other(
                        "The range of it that was asked for.",
                        "application/vnd.tcpdump.pcap",
                    ),
                    304: _KNOWN,
                },
                problems={
                    404: "It is not kept.",
                    416: "It has no such range.",
                    503: "Too many streams and downloads are open.",
                },
                parameters=[_ID],
            )
        },
        "/events": {
            "get": _operation(
                "watchEvents",
                "What happens, as server-sent events: Event, or Gap.",
                {200: _other("It has no end.", "text/event-stream")},
                problems={
                    422: "A parameter is wrong.",
                    503: "Too many streams and downloads are open.",
                },
                parameters=[
                    _query(
                        "request_id",
                        "Only events of this request.",
                        minLength=1,
                        maxLength=MAXREQUESTID,
                    ),
                    _query("progress", "0: no progress events.", enum=["0", "1"]),
                    _query("last", "As Last-Event-ID, which wins over it."),
                    {
                        "name": "Last-Event-ID",
                        "in": "header",
                        "description": "The last event that was seen.",
                        "schema": {"type": "string"},
                    },
                ],
            )
        },
        "/filters": {
            "post": _operation(
                "checkFilter",
                "Whether a filter would be taken.",
                {200: _json("It would.", "Judgement")},
                body=ref("Filter"),
                problems={
                    422: "It would not.",
                    429: "Too many are being looked at.",
                    503: "The daemon closes.",
                },
            )
        },
        "/healthz": {
            "get": _operation(
                "showHealth",
                "Whether the daemon does its work.",
                {
                    200: _json("It does, perhaps without one of its buses.", "Health"),
                    503: _json("It does not.", "Health"),
                },
                public=True,
            )
        },
        "/interfaces": {
            "get": _operation(
                "listInterfaces",
                "The devices of this machine.",
                {200: _json("All of them.", "Interfaces")},
            )
        },
        "/metrics": {
            "get": _operation(
                "showMetrics",
                "Figures for Prometheus.",
                {200: _other("In the format that Accept asks for.", "text/plain")},
            )
        },
        "/openapi.json": {
            "get": _operation(
                "describeRoutes",
                "This description.",
                {
                    200: {
                        "description": "It.",
                        "content": {"application/json": {"schema": {"type": "object"}}},
                    }
                },
            )
        },
        "/page/{name}": {
            "get": _operation(
                "showPageFile",
                "A file of the page.",
                {
                    200: {
                        "description": "It.",
                        "content": {kind: {} for kind in _PAGE_KINDS},
                    },
                    304: _KNOWN,
                },
                problems={404: "There is no such file."},
                parameters=[{**_ID, "name": "name", "description": "Its name."}],
                public=True,
            )
        },
        "/refusals": {
            "get": _operation(
                "listRefusals",
                "What was refused lately.",
                {200: _json("Newest last.", "Refusals")},
            )
        },
        "/triggers/{name}": {
            "post": _operation(
                "notifyTrigger",
                "Alerts that become requests.",
                {
                    200: _json("None of them is for now and here.", "Outcomes"),
                    202: _json("At least one was taken.", "Outcomes"),
                    422: {
                        "description": "An alert, or all of it, cannot be honoured.",
                        "content": {
                            "application/json": {
                                "schema": {"anyOf": [ref("Outcomes"), ref("Problem")]}
                            }
                        },
                    },
                    503: _json("There is no room now.", "Outcomes", **_RETRY),
                },
                body=ref("Notification"),
                problems={404: "There is no such trigger."},
                parameters=[
                    {**_ID, "name": "name", "description": "The name of a [[trigger]]."}
                ],
            )
        },
    }


def describe(served: Container[str], secured: bool) -> dict[str, Any]:
    """
    The whole description.

    @param served: The first steps of the paths that there are.
    @param secured: Whether a token is asked for.
    """
    components: dict[str, Any] = {"schemas": SCHEMAS}
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "pcapdaemon",
            "version": __version__,
            "description": "Packets of an incident, captured when an event asks.",
        },
        "servers": [{"url": "/"}],
        "paths": {
            path: methods
            for path, methods in paths().items()
            if path.split("/")[1] in served
        },
        "components": components,
    }
    if secured:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
    return described


class OpenApi(ApiResource):
    """
    C{/openapi.json}: what all the others are.
    """

    def __init__(self, root: Resource) -> None:
        """
        @param root: What all the others are below.
        """
        super().__init__()
        self._root = root

    def render_GET(self, request: ApiRequest) -> Reply:
        """
        The description of this daemon's routes.
        """
        served = {name.decode("ascii") for name in self._root.listStaticNames()}
        secured = bool(request.site.guard.token)
        return Reply(HTTPStatus.OK, describe(served, secured))
