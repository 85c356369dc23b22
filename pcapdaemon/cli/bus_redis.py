# See LICENSE for details.
"""
Redis, blocking, with the parser that the daemon uses.
"""

from __future__ import annotations

import socket
from time import monotonic
from typing import Any

import hiredis

from pcapdaemon.cli.address import Address
from pcapdaemon.cli.bus import (
    PATIENCE,
    PAUSE,
    Access,
    BusError,
    Receipt,
    Sender,
    Source,
)

#: Bytes of one reply; a Redis channel may carry more than events.
_LIMIT = 8 << 20
#: Seconds of silence after which the server is asked whether it is there.
_PING = 5.0


class _Link:
    """
    One connection.
    """

    def __init__(self, address: Address, access: Access) -> None:
        """
        @raise BusError: There is none to be had.
        """
        self._label = address.label
        self._reader = hiredis.Reader()
        self._unread = 0
        [(host, port)] = address.servers
        try:
            self.socket = socket.create_connection((host, port), PATIENCE)
            if address.tls:
                self.socket = access.context().wrap_socket(
                    self.socket, server_hostname=host
                )
            self.socket.settimeout(PATIENCE)
        except OSError as error:
            raise self._failed(error) from None
        if address.password:
            who = [address.username] if address.username else []
            self.command("AUTH", *who, address.password)

    def _failed(self, error: object) -> BusError:
        words = error.strerror if isinstance(error, OSError) else None
        return BusError(f"{self._label}: {words or error or 'no answer'}")

    def send(self, *words: str | bytes) -> None:
        """
        Send a command.
        """
        # The type that hiredis declares allows no more than one word.
        command: Any = words
        try:
            self.socket.sendall(hiredis.pack_command(command))
        except OSError as error:
            raise self._failed(error) from None

    def reply(self) -> Any:
        """
        Wait for what the server says.

        @raise TimeoutError: It says nothing.
        @raise BusError: It says no, or nothing ever again.
        """
        while True:
            try:
                reply: Any = self._reader.gets()
            except hiredis.ProtocolError as error:
                raise self._failed(error) from None
            if reply is not False:
                self._unread = 0
                if isinstance(reply, hiredis.ReplyError):
                    raise self._failed(reply)
                return reply
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                raise
            except OSError as error:
                raise self._failed(error) from None
            if not data:
                raise self._failed("the server closed the connection")
            self._unread += len(data)
            if self._unread > _LIMIT:
                raise self._failed(f"a message of more than {_LIMIT} bytes")
            self._reader.feed(data)

    def command(self, *words: str | bytes) -> Any:
        """
        Send a command, and wait for its reply.
        """
        self.send(*words)
        try:
            return self.reply()
        except TimeoutError:
            raise self._failed("no answer") from None

    def close(self) -> None:
        self.socket.close()


class RedisSender(Sender):
    """
    Publishes to a channel.
    """

    def publish(self, message: bytes) -> Receipt:
        link = _Link(self.address, self.access)
        try:
            return Receipt(
                heard=int(link.command("PUBLISH", self.address.name, message))
            )
        finally:
            link.close()


class RedisSource(Source):
    """
    Subscribes to a channel, again and again.
    """

    def open(self, requestId: str, progress: bool) -> None:
        self._link = self._subscribed()
        self.run()

    def _subscribed(self) -> _Link:
        link = _Link(self.address, self.access)
        try:
            link.command("SUBSCRIBE", self.address.name)
            link.socket.settimeout(_PING)
        except BaseException:
            link.close()
            raise
        return link

    def close(self) -> None:
        super().close()
        try:
            self._link.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def read(self) -> None:
        while not self.closing.is_set():
            try:
                self._listen()
            except BusError as error:
                self._link.close()
                if not self.closing.is_set():
                    self.lost(error)
                    self._return()
        self._link.close()

    def lost(self, error: BusError) -> None:
        """
        Say that events may be missing from here on.
        """
        text = str(error).removeprefix(f"{self.address.label}: ")
        self.note(f"{text}; events may be missing")

    def _return(self) -> None:
        while not self.closing.wait(PAUSE):
            try:
                self._link = self._subscribed()
            except BusError:
                continue
            self.note("subscribed again")
            return

    def _listen(self) -> None:
        asked = 0.0
        while not self.closing.is_set():
            try:
                reply = self._link.reply()
            except TimeoutError:
                if asked and monotonic() - asked > PATIENCE:
                    raise BusError(f"{self.address.label}: no answer") from None
                asked = asked or monotonic()
                self._link.send("PING")
                continue
            asked = 0.0
            if isinstance(reply, list) and len(reply) == 3 and reply[0] == b"message":
                self.deliver(reply[2])
