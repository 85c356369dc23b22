# See LICENSE for details.
# mypy: allow-untyped-calls
"""
What all routes have in common.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.web.error import UnsupportedMethod
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pcapdaemon.listeners.http.reply import Reply, problem
from pcapdaemon.listeners.http.site import ApiRequest


class ApiResource(Resource):
    """
    Something that answers, as a rule in JSON: each C{render_METHOD} returns what
    L{reply<pcapdaemon.listeners.http.reply>} calls an answer (JSON, other bytes, a
    download, a stream), or a Deferred of one. What it raises is answered with
    status 500.

    @cvar public: Whether it needs no token.
    """

    public = False

    def unauthorized(self, request: ApiRequest) -> None:
        """
        Take note that it was asked for without the token.
        """

    def getChild(self, path: bytes, request: ApiRequest) -> Resource:
        """
        Nothing is below, unless somebody put it there.
        """
        return NotFound()

    def render(self, request: ApiRequest) -> int:
        """
        Answer, now or later.
        """
        done = maybeDeferred(self._dispatch, request)
        done.addErrback(self._notAllowed)
        done.addCallback(request.reply)
        done.addErrback(request.processingFailed)
        return NOT_DONE_YET

    def _dispatch(self, request: ApiRequest) -> Any:
        # The base class would have HEAD wherever it is, and then look for GET.
        if request.method == b"HEAD" and not hasattr(self, "render_GET"):
            raise UnsupportedMethod(self._methods())
        return super().render(request)

    def _methods(self) -> list[bytes]:
        names = [name.removeprefix("render_") for name in dir(self)]
        names = [name for name in names if name.isupper()]
        if "GET" not in names:
            names.remove("HEAD")
        return [name.encode("ascii") for name in names]

    def _notAllowed(self, failure: Any) -> Reply:
        failure.trap(UnsupportedMethod)
        allowed = ", ".join(sorted(name.decode("ascii") for name in self._methods()))
        return problem(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "method-not-allowed",
            f"here is only {allowed}",
            {"Allow": allowed},
        )


class NotFound(ApiResource):
    """
    What is not there, whatever one would do with it.
    """

    isLeaf = True

    def render(self, request: ApiRequest) -> int:
        """
        Say so.
        """
        request.reply(
            problem(HTTPStatus.NOT_FOUND, "not-found", "there is nothing at this path")
        )
        return NOT_DONE_YET


def wrongType(request: ApiRequest) -> Reply | None:
    """
    What to answer where a body does not say that it is JSON: so no form of another
    site's page can send one.
    """
    kind = (request.getHeader(b"Content-Type") or b"").partition(b";")[0]
    if kind.strip().lower() == b"application/json":
        return None
    return problem(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "unsupported-media-type",
        "Content-Type: must be application/json",
    )
