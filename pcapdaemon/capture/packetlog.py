# See LICENSE for details.
"""
C{packetdebug}: a line of the log for every packet of a capture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pcapdaemon.capture.decode import Undecodable, describe
from pcapdaemon.capture.recording import Recording
from pcapdaemon.interfaces import CaptureError

#: Packets that are decoded between two turns of the reactor.
_BATCH = 200


class PacketLog:
    """
    Decodes finished recordings for the log.

    @ivar always: Whether all captures are decoded, or only those that ask.
    @ivar panic: Whether a packet that cannot be decoded fails its capture.
    @ivar closing: Whether there is no time for what is only for the log.
    """

    _log = Logger()

    def __init__(self, work: Callable[..., Deferred[Any]]) -> None:
        """
        @param work: Calls a function in a worker thread.
        """
        self._work = work
        self.always = False
        self.panic = False
        self.closing = False

    def examine(self, recording: Recording) -> Deferred[None]:
        """
        @return: Fires when all packets are in the log, at once where nobody
            asked for it. It fails with L{CaptureError} at the first that cannot
            be decoded when C{panic} is on.
        """
        return Deferred.fromCoroutine(self._examine(recording))

    async def _examine(self, recording: Recording) -> None:
        if not (self.always or recording.plan.request.packetdebug):
            return
        with recording.open() as stream:
            packets = describe(stream, self.panic)
            while batch := await self._work(_take, packets):
                if self.closing and not self.panic:
                    return  # it is the file that matters now
                for packet in batch:
                    if isinstance(packet, Undecodable):
                        raise CaptureError(str(packet))
                    if isinstance(packet, Exception):
                        # Not the packet's fault, so it costs no capture.
                        self._log.error(
                            "packetdebug is not possible: {error}", error=packet
                        )
                        return
                    self._log.info(
                        "{id}: packet {number}: {summary}{mark}",
                        id=recording.plan.id,
                        mark=" (malformed)" if packet["malformed"] else "",
                        **packet,
                    )


def _take(packets: Iterator[dict[str, Any]]) -> list[dict[str, Any] | Exception]:
    """
    In a worker thread: some packets, and what the last of them raised.
    """
    batch: list[dict[str, Any] | Exception] = []
    try:
        batch.extend(islice(packets, _BATCH))
    except (Undecodable, ImportError, ValueError) as error:
        batch.append(error)
    return batch
