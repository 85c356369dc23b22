# See LICENSE for details.
# mypy: allow-untyped-calls
"""
What helps to watch the daemon and to make a request for it.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.python.failure import Failure

from pcapdaemon.interfaces import Answer, ICaptureControl, Reason, Refused, Verdict
from pcapdaemon.listeners.http.feed import Feed, Watcher, Wish
from pcapdaemon.listeners.http.reply import Reply, problem, replyTo
from pcapdaemon.listeners.http.resource import ApiResource, wrongType
from pcapdaemon.listeners.http.site import ApiRequest
from pcapdaemon.listeners.http.streams import Stream
from pcapdaemon.request import MAXREQUESTID, show


class Events(ApiResource):
    """
    C{/events}: what happens, as it happens.
    """

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self._feed = feed

    def render_GET(self, request: ApiRequest) -> Stream | Reply:
        """
        All of it, or of one request.
        """
        progress = _argument(request, b"progress")
        if progress not in (None, "0", "1"):
            return _invalid("progress", progress, "0 or 1")
        requestId = _argument(request, b"request_id")
        if requestId is not None and not 0 < len(requestId) <= MAXREQUESTID:
            return _invalid("request_id", requestId, f"1 to {MAXREQUESTID} characters")
        # A browser that comes back says it in the header, with the same query.
        last = request.text("Last-Event-ID") or _argument(request, b"last")
        wish = Wish(requestId or "", progress != "0", last)
        return Stream(lambda sink: Watcher(self._feed, wish, sink), "text/event-stream")


def _argument(request: ApiRequest, name: bytes) -> str | None:
    """
    The last value of a parameter in the query.
    """
    values = request.args.get(name)
    return values[-1].decode("utf-8", "replace") if values else None


def _invalid(name: str, value: object, allowed: str) -> Reply:
    return problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        Reason.INVALID,
        f"{name}: {show(value)}; allowed are {allowed}",
    )


class Refusals(ApiResource):
    """
    C{/refusals}: what was refused lately.
    """

    def __init__(self, control: ICaptureControl) -> None:
        super().__init__()
        self._control = control

    def render_GET(self, request: ApiRequest) -> Reply:
        """
        All of them, newest last.
        """
        return Reply(HTTPStatus.OK, {"refusals": self._control.refusals()})


class Interfaces(ApiResource):
    """
    C{/interfaces}: the devices there are, and what one may ask of them.
    """

    def __init__(
        self,
        devices: Callable[[], Deferred[list[dict[str, Any]]]],
        limits: Callable[[], dict[str, Any]],
    ) -> None:
        super().__init__()
        self._devices = devices
        self._limits = limits
        #: Those who wait for the look that is under way: one at a time will do.
        self._waiting: list[Deferred[Reply]] = []

    def render_GET(self, request: ApiRequest) -> Deferred[Reply]:
        """
        All of them, as they are now.
        """
        answer: Deferred[Reply] = Deferred()
        self._waiting.append(answer)
        if len(self._waiting) == 1:
            self._devices().addCallbacks(self._tell, self._fail)
        return answer

    def _tell(self, devices: list[dict[str, Any]]) -> None:
        waiting, self._waiting = self._waiting, []
        told: dict[str, Any] = {"interfaces": devices}
        limits = self._limits()
        if limits:
            told["limits"] = limits
        for answer in waiting:
            answer.callback(Reply(HTTPStatus.OK, told))

    def _fail(self, failure: Failure) -> None:
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            answer.errback(failure)


class Filters(ApiResource):
    """
    C{/filters}: whether a filter would be taken. It takes the same children as
    captures need, and so only a few questions are asked at once.

    @cvar atOnce: How many.
    @cvar most: How many may wait for their turn.
    """

    atOnce = 2
    most = 16

    def __init__(self, judge: Callable[[bytes], Deferred[dict[str, Any]]]) -> None:
        super().__init__()
        self._judge = judge
        self._turn = DeferredSemaphore(self.atOnce)

    def render_POST(self, request: ApiRequest) -> Reply | Deferred[Reply]:
        """
        Look at one, and forget about it.
        """
        wrong = wrongType(request)
        if wrong is not None:
            return wrong
        if request.cutOff:
            detail = f"the message has {request.cutOff} bytes"
            return self._refused(Refused(Reason.TOO_LARGE, detail))
        if len(self._turn.waiting) >= self.most:
            detail = f"{self.most} filters wait to be looked at already"
            return self._refused(Refused(Reason.BUSY, detail))
        answer = self._turn.run(self._judge, request.content.read())
        return answer.addCallbacks(lambda told: Reply(HTTPStatus.OK, told), self._fail)

    def _fail(self, failure: Failure) -> Reply:
        failure.trap(Refused)
        return self._refused(failure.value)

    @staticmethod
    def _refused(refused: Any) -> Reply:
        answer = Answer(Verdict.REFUSED, (), refused.reason, refused.detail)
        return replyTo(answer)
