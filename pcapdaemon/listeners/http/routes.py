# See LICENSE for details.
# mypy: allow-untyped-calls
"""
What there is to be asked for.

A resource's C{render_METHOD} returns what
L{reply<pcapdaemon.listeners.http.reply>} calls an answer (JSON, other bytes, a
download, a stream), or a Deferred of one; what it raises is answered with status
500. A new route is a new resource under L{makeRoot}; what it needs of the daemon is
an attribute of L{Served}.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import attrs

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.web.error import UnsupportedMethod
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pcapdaemon.interfaces import ICaptureControl, IMessageReceiver, ITriggers
from pcapdaemon.listeners.http.reply import Content, Reply, problem, replyTo
from pcapdaemon.listeners.http.site import ApiRequest


@attrs.frozen
class Served:
    """
    What the routes show and use.

    @ivar receiver: Who takes requests.
    @ivar control: Who knows the captures.
    @ivar health: Says how the daemon is: C{status} is C{"ok"} or C{"degraded"}.
        Anybody may read it.
    @ivar exposition: From what a client accepts to all metrics and their content
        type; L{None} where there are none.
    @ivar triggers: Who takes alerts; L{None} where nobody does.
    """

    receiver: IMessageReceiver
    control: ICaptureControl
    health: Callable[[], dict[str, Any]]
    exposition: Callable[[str], tuple[bytes, str]] | None = None
    triggers: ITriggers | None = None


class ApiResource(Resource):
    """
    Something that answers, as a rule in JSON.

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
        done = maybeDeferred(super().render, request)
        done.addErrback(self._notAllowed)
        done.addCallback(request.reply)
        done.addErrback(request.processingFailed)
        return NOT_DONE_YET

    @staticmethod
    def _notAllowed(failure: Any) -> Reply:
        failure.trap(UnsupportedMethod)
        allowed = ", ".join(
            sorted(method.decode("ascii") for method in failure.value.allowedMethods)
        )
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


class Health(ApiResource):
    """
    C{/healthz}: whether the daemon does its work. Degraded is not broken: only a
    status that is neither C{ok} nor C{degraded} turns into 503, so that nobody
    restarts a daemon, and its captures, because a bus is away.
    """

    public = True

    def __init__(self, health: Callable[[], dict[str, Any]]) -> None:
        super().__init__()
        self._health = health

    def render_GET(self, request: ApiRequest) -> Reply:
        """
        How it is now.
        """
        state = self._health()
        if state["status"] in ("ok", "degraded"):
            return Reply(HTTPStatus.OK, state)
        return Reply(HTTPStatus.SERVICE_UNAVAILABLE, state)


class Captures(ApiResource):
    """
    C{/captures}: all captures, and the place to ask for new ones.
    """

    def __init__(self, receiver: IMessageReceiver, control: ICaptureControl) -> None:
        super().__init__()
        self._receiver = receiver
        self._control = control

    def unauthorized(self, request: ApiRequest) -> None:
        """
        Who asks for captures in vain shall be found among the events.
        """
        if request.method == b"POST":
            self._receiver.unauthorized("http")

    def getChild(self, path: bytes, request: ApiRequest) -> Resource:
        """
        One of the captures.
        """
        return Capture(path.decode("utf-8", "replace"), self._control)

    def render_GET(self, request: ApiRequest) -> Reply:
        """
        What there is.
        """
        return Reply(HTTPStatus.OK, {"captures": self._control.summaries()})

    def render_POST(self, request: ApiRequest) -> Reply | Deferred[Reply]:
        """
        Take a request for captures.
        """
        kind = (request.getHeader(b"Content-Type") or b"").partition(b";")[0]
        if kind.strip().lower() != b"application/json":
            return problem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "Content-Type: must be application/json",
            )
        if request.cutOff:
            return replyTo(self._receiver.oversized(request.cutOff, "http"))
        answer = self._receiver.receive(request.content.read(), "http")
        return answer.addCallback(replyTo)


class Capture(ApiResource):
    """
    C{/captures/ID}: one capture.
    """

    def __init__(self, id: str, control: ICaptureControl) -> None:
        super().__init__()
        self._id = id
        self._control = control

    def render_GET(self, request: ApiRequest) -> Reply:
        """
        What is known of it.
        """
        summary = self._control.summary(self._id)
        return self._unknown() if summary is None else Reply(HTTPStatus.OK, summary)

    def render_DELETE(self, request: ApiRequest) -> Reply:
        """
        End it, and keep what it holds.
        """
        if self._control.cancel(self._id):
            return Reply(HTTPStatus.ACCEPTED, {"id": self._id, "state": "cancelled"})
        if self._control.summary(self._id) is None:
            return self._unknown()
        return problem(
            HTTPStatus.CONFLICT, "finished", f"capture {self._id} has already ended"
        )

    def _unknown(self) -> Reply:
        return problem(
            HTTPStatus.NOT_FOUND, "not-found", f"there is no capture {self._id}"
        )


class Metrics(ApiResource):
    """
    C{/metrics}: what Prometheus wants to know.
    """

    def __init__(self, exposition: Callable[[str], tuple[bytes, str]]) -> None:
        super().__init__()
        self._exposition = exposition

    def render_GET(self, request: ApiRequest) -> Content:
        """
        All of it, as it is now.
        """
        return Content(*self._exposition(request.getHeader("Accept") or ""))


def makeRoot(served: Served) -> Resource:
    """
    All that the listener serves.
    """
    root = ApiResource()
    root.putChild(b"captures", Captures(served.receiver, served.control))
    root.putChild(b"healthz", Health(served.health))
    if served.exposition is not None:
        root.putChild(b"metrics", Metrics(served.exposition))
    if served.triggers is not None:
        # A module that builds on this one.
        from pcapdaemon.listeners.http.triggers import Triggers

        root.putChild(b"triggers", Triggers(served.triggers, served.receiver))
    return root
