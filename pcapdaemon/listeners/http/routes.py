# See LICENSE for details.
# mypy: allow-untyped-calls
"""
What there is to be asked for.

A new route is a new L{ApiResource} under L{makeRoot}; what it needs of the daemon is
an attribute of L{Served}.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import attrs

from twisted.internet.defer import Deferred
from twisted.web.resource import Resource

from pcapdaemon.interfaces import ICaptureControl, IMessageReceiver, ITriggers
from pcapdaemon.kept import Shelf
from pcapdaemon.listeners.http.feed import Feed
from pcapdaemon.listeners.http.livepage import addPage
from pcapdaemon.listeners.http.looking import Events, Filters, Interfaces, Refusals
from pcapdaemon.listeners.http.openapi import OpenApi
from pcapdaemon.listeners.http.reply import Content, Reply, problem, replyTo
from pcapdaemon.listeners.http.resource import ApiResource, wrongType
from pcapdaemon.listeners.http.site import ApiRequest
from pcapdaemon.listeners.http.streams import Download
from pcapdaemon.listeners.http.triggers import Triggers


@attrs.frozen
class Served:
    """
    What the routes show and use.

    @ivar receiver: Who takes requests.
    @ivar control: Who knows the captures.
    @ivar health: Says how the daemon is: C{status} is C{"ok"} or C{"degraded"}.
        Anybody may read it.
    @ivar feed: What happens. Whoever serves this starts and stops it.
    @ivar shelf: The files of the last captures.
    @ivar devices: Describes all devices, as
        L{describe<pcapdaemon.capture.interfaces.describe>} does.
    @ivar judge: Looks at the filter of a request that nobody has made yet, as
        L{Intake.judge<pcapdaemon.intake.Intake.judge>} does.
    @ivar limits: What requests may ask for, and what they get where they do not
        ask: as L{Limits<pcapdaemon.plan.Limits>} has it.
    @ivar exposition: From what a client accepts to all metrics and their content
        type; L{None} where there are none.
    @ivar triggers: Who takes alerts; L{None} where nobody does.
    """

    receiver: IMessageReceiver
    control: ICaptureControl
    health: Callable[[], dict[str, Any]]
    feed: Feed
    shelf: Shelf
    devices: Callable[[], Deferred[list[dict[str, Any]]]]
    judge: Callable[[bytes], Deferred[dict[str, Any]]]
    limits: Callable[[], dict[str, Any]] = dict
    exposition: Callable[[str], tuple[bytes, str]] | None = None
    triggers: ITriggers | None = None


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

    def __init__(self, served: Served) -> None:
        super().__init__()
        self._receiver = served.receiver
        self._served = served

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
        return Capture(path.decode("utf-8", "replace"), self._served)

    def render_GET(self, request: ApiRequest) -> Reply:
        """
        What there is.
        """
        summaries = self._served.control.summaries()
        for summary in summaries:
            _addFile(summary, self._served.shelf)
        return Reply(HTTPStatus.OK, {"captures": summaries})

    def render_POST(self, request: ApiRequest) -> Reply | Deferred[Reply]:
        """
        Take a request for captures.
        """
        wrong = wrongType(request)
        if wrong is not None:
            return wrong
        if request.cutOff:
            return replyTo(self._receiver.oversized(request.cutOff, "http"))
        answer = self._receiver.receive(request.content.read(), "http")
        return answer.addCallback(replyTo)


class Capture(ApiResource):
    """
    C{/captures/ID}: one capture.
    """

    def __init__(self, id: str, served: Served) -> None:
        super().__init__()
        self._id = id
        self._control = served.control
        self._shelf = served.shelf
        self.putChild(b"file", CaptureFile(id, served.shelf))

    def render_GET(self, request: ApiRequest) -> Reply:
        """
        What is known of it.
        """
        summary = self._control.summary(self._id)
        if summary is None:
            return self._unknown()
        _addFile(summary, self._shelf)
        return Reply(HTTPStatus.OK, summary)

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


class CaptureFile(ApiResource):
    """
    C{/captures/ID/file}: the pcap of a capture that is over, while it is kept.
    """

    def __init__(self, id: str, shelf: Shelf) -> None:
        super().__init__()
        self._id = id
        self._shelf = shelf

    def render_GET(self, request: ApiRequest) -> Download | Reply:
        """
        The file, from memory.
        """
        file = self._shelf.get(self._id)
        if file is None:
            return problem(
                HTTPStatus.NOT_FOUND,
                "not-found",
                f"no file of a capture {self._id} is kept; [http] files ="
                f" {self._shelf.budget} bytes are, for the last ones",
            )
        # The name is made of letters, digits, dots, hyphens and underscores.
        disposition = f'attachment; filename="{file.filename}"'
        return Download(
            file.open,
            file.size,
            "application/vnd.tcpdump.pcap",
            file.sha256,
            {"Content-Disposition": disposition},
        )


def _addFile(summary: dict[str, Any], shelf: Shelf) -> None:
    """
    Say where the file of a capture is, if it is kept.
    """
    if shelf.get(summary["id"]) is not None:
        summary["file"] = f"/captures/{summary['id']}/file"


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
        return Content(*self._exposition(request.text("Accept") or ""))


def makeRoot(served: Served) -> Resource:
    """
    All that the listener serves.
    """
    root = ApiResource()
    addPage(root)
    root.putChild(b"captures", Captures(served))
    root.putChild(b"events", Events(served.feed))
    root.putChild(b"filters", Filters(served.judge))
    root.putChild(b"healthz", Health(served.health))
    root.putChild(b"interfaces", Interfaces(served.devices, served.limits))
    root.putChild(b"openapi.json", OpenApi(root))
    root.putChild(b"refusals", Refusals(served.control))
    if served.exposition is not None:
        root.putChild(b"metrics", Metrics(served.exposition))
    if served.triggers is not None:
        root.putChild(b"triggers", Triggers(served.triggers, served.receiver))
    return root
