# See LICENSE for details.
"""
The daemon's own HTTP server.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlencode

from pcapdaemon.cli.address import Address
from pcapdaemon.cli.bus import (
    LARGEST,
    PATIENCE,
    PAUSE,
    Access,
    BusError,
    Receipt,
    Sender,
    Source,
)

#: Seconds without a word from the server, which says something every 15 s.
_SILENCE = 45.0


class Server:
    """
    One server.
    """

    def __init__(self, address: Address, access: Access) -> None:
        self.address = address
        self._access = access

    def _connection(self, timeout: float) -> HTTPConnection:
        [(host, port)] = self.address.servers
        if self.address.tls:
            context = self._access.context()
            return HTTPSConnection(host, port, timeout=timeout, context=context)
        return HTTPConnection(host, port, timeout=timeout)

    @contextmanager
    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = PATIENCE,
        connected: Callable[[socket.socket], object] = lambda socket: None,
    ) -> Iterator[HTTPResponse]:
        """
        Make a request, and have its answer meanwhile.

        @param connected: Is called with the socket.
        @raise BusError: There is no answer, or reading it failed.
        """
        told = dict(headers or {})
        if self._access.token:
            told["Authorization"] = f"Bearer {self._access.token}"
        if body is not None:
            told["Content-Type"] = "application/json"
        link = self._connection(timeout)
        try:
            link.connect()
            connected(link.sock)
            link.request(method, path, body, told)
            with link.getresponse() as response:
                yield response
        except TimeoutError:
            raise BusError(f"{self.address.label}: no answer") from None
        except OSError as error:
            text = error.strerror or str(error)
            raise BusError(f"{self.address.label}: {text}") from None
        except (HTTPException, ValueError) as error:
            # The token may be something that cannot be sent; it is not shown.
            text = (
                type(error).__name__ if isinstance(error, ValueError) else repr(error)
            )
            raise BusError(f"{self.address.label}: {text}") from None
        finally:
            link.close()

    def call(
        self, method: str, path: str, body: bytes | None = None
    ) -> tuple[int, Any]:
        """
        Make a request, and read the JSON of its answer.

        @return: The status, and an object; an empty one where the answer has none.
        """
        with self.ask(method, path, body) as response:
            data = response.read(LARGEST)
            try:
                answer = json.loads(data)
            except (ValueError, RecursionError):
                answer = {}
            return response.status, answer if isinstance(answer, dict) else {}

    def refusal(self, status: int, answer: dict[str, Any]) -> str:
        """
        What an answer that says no says.
        """
        reason = answer.get("reason", "")
        detail = answer.get("detail", "")
        return f"{status} {reason}: {detail}" if reason else f"status {status}"


class HttpSender(Sender):
    """
    Posts to C{/captures}.
    """

    def publish(self, message: bytes) -> Receipt:
        server = Server(self.address, self.access)
        status, answer = server.call("POST", "/captures", message)
        node = ""
        with suppress(BusError):
            _, health = server.call("GET", "/healthz")
            node = str(health.get("node", ""))
        ids = answer.get("ids")
        if status == 202 and isinstance(ids, list):
            texts = tuple(id for id in ids if isinstance(id, str))
            return Receipt(heard=1, node=node, ids=texts)
        reason = answer.get("reason")
        if not isinstance(reason, str) or status >= 500 and reason != "closing":
            raise BusError(f"{self.address.label}: {server.refusal(status, answer)}")
        return Receipt(
            heard=1,
            node=node,
            reason=reason,
            detail=str(answer.get("detail", "")),
            foreign=reason == "not-ours",
        )

    def cancel(self, requestId: str, ids: Iterable[str]) -> None:
        server = Server(self.address, self.access)
        for id in ids:
            status, answer = server.call("DELETE", f"/captures/{quote(id, safe='')}")
            # One that is over, or long forgotten, need not be ended.
            if status not in (202, 404, 409):
                raise BusError(
                    f"{self.address.label}: {server.refusal(status, answer)}"
                )


class HttpSource(Source):
    """
    Reads the stream C{/events}, again and again from where it broke off.
    """

    def open(self, requestId: str, progress: bool) -> None:
        self._server = Server(self.address, self.access)
        self._last = ""
        self._socket: socket.socket | None = None
        wanted = {"request_id": requestId} if requestId else {}
        if not progress:
            wanted["progress"] = "0"
        self._path = f"/events?{urlencode(wanted)}".rstrip("?")
        self._stream = self._begun()
        self._response = self._stream.__enter__()
        try:
            self._accepted()
        except BaseException:
            self._end()
            raise
        self.run()

    def _begun(self) -> Any:
        headers = {"Accept": "text/event-stream"}
        if self._last:
            headers["Last-Event-ID"] = self._last

        def connected(link: socket.socket) -> None:
            self._socket = link

        return self._server.ask(
            "GET", self._path, None, headers, _SILENCE, connected=connected
        )

    def _accepted(self) -> None:
        """
        @raise BusError: This is no stream of events.
        """
        status = self._response.status
        kind = self._response.headers.get_content_type()
        if status == 200 and kind == "text/event-stream":
            return
        try:
            answer = json.loads(self._response.read(LARGEST))
        except ValueError:
            answer = {}
        text = self._server.refusal(status, answer if isinstance(answer, dict) else {})
        raise BusError(f"{self.address.label}: no events: {text}")

    def _end(self) -> None:
        with suppress(BusError):
            self._stream.__exit__(None, None, None)

    def close(self) -> None:
        super().close()
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def read(self) -> None:
        said = False
        while not self.closing.is_set():
            why = "the server ended the stream"
            try:
                self._follow()
            except (OSError, HTTPException, ValueError, BusError) as error:
                why = (isinstance(error, OSError) and error.strerror) or str(error)
            self._end()
            if not said and not self.closing.is_set():
                self.note(f"{why}; trying to come back")
            said = not self._return()
        self._end()

    def _return(self) -> bool:
        """
        Connect again.
        """
        while not self.closing.wait(PAUSE):
            try:
                self._stream = self._begun()
                self._response = self._stream.__enter__()
                self._accepted()
            except BusError:
                self._end()
                continue
            return True
        return False

    def _follow(self) -> None:
        """
        Read events until the stream ends.
        """
        kind, data, last = "", b"", self._last
        while line := self._response.readline(LARGEST + 1):
            if len(line) + len(data) > LARGEST:
                raise BusError(f"an event of more than {LARGEST} bytes")
            field, _, value = line.rstrip(b"\r\n").partition(b":")
            value = value.removeprefix(b" ")
            if field == b"id":
                last = value.decode("ascii", "replace")
            elif field == b"event":
                kind = value.decode("ascii", "replace")
            elif field == b"data":
                data += value
            elif line.strip() == b"":
                if kind == "gap":
                    self.note("the server has dropped events for us")
                elif data:
                    self.deliver(data)
                # Only now: half of an event must come again.
                kind, data, self._last = "", b"", last
