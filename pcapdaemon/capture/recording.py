# See LICENSE for details.
"""
What one capture leaves: a pcap in memory, and what is known about it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from io import BufferedReader
from typing import Protocol

import attrs

from pcapdaemon.interfaces import Drops
from pcapdaemon.plan import CapturePlan


class File(Protocol):
    """
    Where the pcap of a recording is: all that L{Recording} needs of it.
    """

    def open(self) -> BufferedReader:
        """The file from its beginning. Any thread, any number of times."""

    def close(self) -> None:
        """Nobody needs it any more. Idempotent."""


class MemoryFile:
    """
    An anonymous file in memory. It is gone with its last descriptor.
    """

    def __init__(self, name: str) -> None:
        """
        @param name: What C{/proc} shows, for whoever looks at a process.
        """
        self._descriptor = os.memfd_create(name[:200], os.MFD_CLOEXEC)

    def fileno(self) -> int:
        return self._descriptor

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._descriptor).st_size

    def open(self) -> BufferedReader:
        """
        The file, read-only and from its beginning, with a position of its own,
        so that any number of readers do not disturb each other.
        """
        return open(f"/proc/self/fd/{self._descriptor}", "rb")

    def digest(self) -> str:
        """
        The SHA-256 of the file in hexadecimal. Called in a worker thread; the GIL
        is free while it computes.
        """
        if not self.size:
            return hashlib.sha256().hexdigest()
        # Where it lies: to copy it first would cost a tenth more.
        with mmap.mmap(self._descriptor, 0, prot=mmap.PROT_READ) as content:
            return hashlib.sha256(content).hexdigest()

    def close(self) -> None:
        """Give the memory back. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@attrs.frozen
class Recording:
    """
    A finished capture.

    @ivar plan: What was asked.
    @ivar linkType: The C{DLT_} number of the file.
    @ivar armed: When the first packet could have been seen, seconds since the
        epoch.
    @ivar finished: When the capture stopped, seconds since the epoch.
    @ivar packets: How many packets are in the file.
    @ivar size: Bytes of the file.
    @ivar drops: What the kernel lost.
    @ivar stop: One of the words of L{pcapdaemon.interfaces.Stop}.
    @ivar sha256: Of the file, in hexadecimal; empty without packets.
    """

    plan: CapturePlan
    linkType: int
    armed: float
    finished: float
    packets: int
    size: int
    drops: Drops
    stop: str
    sha256: str
    _file: File | None = attrs.field(repr=False)

    @property
    def filename(self) -> str:
        """The name that the file has wherever it goes."""
        return self.plan.filename

    def open(self) -> BufferedReader:
        """
        The pcap, from its beginning. Any thread, any number of times.

        @raise ValueError: There are no packets, and so no file.
        """
        if self._file is None:
            raise ValueError("a recording without packets has no file")
        return self._file.open()

    def close(self) -> None:
        """Give the memory back, once every sink is done. Idempotent."""
        if self._file is not None:
            self._file.close()


def digest(file: File) -> str:
    """
    The SHA-256 of a file. Called in a worker thread; the GIL is free
    while it computes.
    """
    with file.open() as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
