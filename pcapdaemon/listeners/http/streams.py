# See LICENSE for details.
# mypy: allow-untyped-calls
"""
Answers that take as long as the client likes. They are bounded in number, so that
other requests always find a connection; a client that stops to read is cut off
after the site's time-out; none keeps the daemon from its end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import BinaryIO

import attrs

from twisted.internet.interfaces import IPushProducer
from twisted.web.static import SingleRangeStaticProducer

from pcapdaemon.listeners.http.reply import problem
from pcapdaemon.listeners.http.site import ApiRequest

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII)


def byteRange(header: str, size: int) -> tuple[int, int] | None:
    """
    What a C{Range} header asks for.

    @param size: How many bytes there are.
    @return: The first byte and how many; none where nothing of it is there.
        L{None} where the whole is to be sent: it is not one range of bytes.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or match[0] == "bytes=-":
        return None
    if not match[1]:
        count = min(int(match[2]), size)
        return size - count, count
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < first:
        return None
    return first, max(0, last + 1 - first)


@attrs.frozen
class Download:
    """
    A file, read as fast as the client does and no faster.

    @ivar open: Opens it, at its beginning; not called for C{HEAD}. Reading must
        not block. It is closed whatever happens.
    @ivar size: How many bytes it has.
    @ivar kind: The content type.
    @ivar etag: Names these very bytes; without the quotes.
    @ivar headers: Headers beyond those that every answer has, or in their place.
    """

    open: Callable[[], BinaryIO]
    size: int
    kind: str
    etag: str
    headers: Mapping[str, str] = attrs.field(factory=dict)
    code: HTTPStatus = attrs.field(default=HTTPStatus.OK, init=False)

    def send(self, request: ApiRequest) -> None:
        """
        Send all of it, or the range that is asked for, unless the client has it.
        """
        if request.isKnown(self.etag):
            request.finish()
            return
        request.setHeader(b"Accept-Ranges", b"bytes")
        offset, count = 0, self.size
        wanted = request.text("Range")
        condition = request.text("If-Range")
        if wanted and condition in (None, f'"{self.etag}"'):
            part = byteRange(wanted, self.size)
            if part is not None:
                offset, count = part
                if not count:
                    self._outside(request)
                    return
                request.setResponseCode(HTTPStatus.PARTIAL_CONTENT, b"Partial Content")
                request.setHeader(
                    "Content-Range", f"bytes {offset}-{offset + count - 1}/{self.size}"
                )
        request.setHeader(b"Content-Length", b"%d" % (count,))
        if request.method == b"HEAD":
            request.finish()
        elif request.reserve():
            file = self.open()
            request.notifyFinish().addBoth(lambda ignored: file.close())
            SingleRangeStaticProducer(request, file, offset, count).start()

    def _outside(self, request: ApiRequest) -> None:
        request.reply(
            problem(
                HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                "invalid",
                f"Range: the file has {self.size} bytes",
                {"Content-Range": f"bytes */{self.size}"},
            )
        )


@attrs.frozen
class Stream:
    """
    What has no end of its own.

    @ivar begin: Makes what writes to a request (C{request.write}). It is resumed
        when it may begin, paused while the client does not read, when it may not
        write, and stopped, perhaps more than once, when the client goes or the
        daemon ends.
    @ivar kind: The content type.
    @ivar headers: Headers beyond those that every answer has, or in their place.
    """

    begin: Callable[[ApiRequest], IPushProducer]
    kind: str
    headers: Mapping[str, str] = attrs.field(factory=dict)
    code: HTTPStatus = attrs.field(default=HTTPStatus.OK, init=False)

    def send(self, request: ApiRequest) -> None:
        """
        Begin.
        """
        if request.method == b"HEAD":
            request.finish()
        elif request.reserve():
            request.stream(self.begin(request))
