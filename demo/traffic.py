# See LICENSE for details.
"""
A little traffic of one's own on C{lo}.
"""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"


class Traffic:
    """
    Sends packets to itself while the C{with} statement lasts.

    @ivar filter: A libpcap filter for them alone: asking the daemon for captures
        is traffic of C{lo} too.
    """

    def __enter__(self) -> Self:
        self._receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._receiver.bind((HOST, 0))
        self._port: int = self._receiver.getsockname()[1]
        self.filter = f"udp dst port {self._port}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._receiver.close()
        self._sender.close()

    def send(self, packets: int) -> None:
        """
        Send packets, all different.
        """
        for number in range(packets):
            text = f"packet {number} of a demo"
            self._sender.sendto(text.encode(), (HOST, self._port))
