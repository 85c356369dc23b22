# See LICENSE for details.
"""
The files of the last captures, for those who come and ask for them.
"""

from __future__ import annotations

from io import BufferedReader

import attrs

from twisted.logger import Logger

from pcapdaemon.capture.recording import Recording

#: Memory comes in pieces of this size.
_PAGE = 4096
#: The most files, whatever they hold: each costs a descriptor.
MOST = 256


@attrs.frozen
class KeptFile:
    """
    The pcap of a capture that is over.

    @ivar filename: Its name.
    @ivar size: Its bytes.
    @ivar sha256: Its SHA-256, in hexadecimal.
    """

    filename: str
    size: int
    sha256: str
    _stream: BufferedReader = attrs.field(repr=False)

    def open(self) -> BufferedReader:
        """
        The file from its beginning, with a position of its own. Whoever reads it
        may go on when it is no longer kept.
        """
        return open(f"/proc/self/fd/{self._stream.fileno()}", "rb")

    def close(self) -> None:
        """
        Keep it no longer. Idempotent.
        """
        self._stream.close()


class Shelf:
    """
    Keeps the files of the last captures within a budget; the oldest goes first.

    A file is in memory once, however many hold it: it is gone when neither a sink
    nor this nor a reader has it open any more, and the kernel does the counting. So
    nothing here is in the way of the L{Recording} or of its sinks, and what is kept
    counts against the budget here, not against C{[capture] memory}.

    @ivar used: Bytes of memory that the files take.
    @ivar most: How many files there may be.
    """

    _log = Logger()

    def __init__(self, budget: int = 0, most: int = MOST) -> None:
        """
        @param budget: Bytes of memory that all files together may take.
        """
        self._files: dict[str, KeptFile] = {}
        self._budget = budget
        self.most = most
        self.used = 0

    @property
    def budget(self) -> int:
        """
        Bytes that all files together may take; 0 keeps none. May be changed at
        any time.
        """
        return self._budget

    @budget.setter
    def budget(self, budget: int) -> None:
        self._budget = budget
        self._shrink()

    def keep(self, recording: Recording) -> None:
        """
        Keep a finished recording that has packets, unless it alone is too large
        or there is no descriptor left for it. Whatever happens, its sinks get it.
        """
        if _memory(recording.size) > self._budget:
            return
        try:
            stream = recording.open()
        except OSError as error:
            self._log.warn(
                "{name} is not kept: {error}",
                name=recording.filename,
                error=str(error),
            )
            return
        self._files[recording.plan.id] = KeptFile(
            recording.filename, recording.size, recording.sha256, stream
        )
        self.used += _memory(recording.size)
        self._shrink()

    def get(self, id: str) -> KeptFile | None:
        """
        The file of a capture, if it is kept.
        """
        return self._files.get(id)

    def close(self) -> None:
        """
        Keep nothing any longer.
        """
        self.budget = 0

    def _shrink(self) -> None:
        while self.used > self._budget or len(self._files) > self.most:
            file = self._files.pop(next(iter(self._files)))
            self.used -= _memory(file.size)
            file.close()


def _memory(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
