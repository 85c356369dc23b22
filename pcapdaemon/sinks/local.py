# See LICENSE for details.
"""
A directory of this machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zope.interface import implementer

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pcapdaemon.capture.recording import Recording
from pcapdaemon.interfaces import ISink, StartError
from pcapdaemon.plan import safeHost

#: Bytes that are copied at once: what stays in the processor's cache costs half
#: of what C{sendfile(2)} does (measured between two memory file systems).
_CHUNK = 256 << 10


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


@implementer(ISink)
class LocalSink(Service):
    """
    Writes recordings into a directory: under a hidden name first, then, when
    all of it has reached the disk, under its own.
    """

    name = "local"
    _log = Logger()

    def __init__(
        self,
        directory: str,
        node: str,
        work: Callable[..., Deferred[Any]],
        mode: int = 0o640,
    ) -> None:
        """
        @param directory: Made when it does not exist.
        @param node: The host name that all file names begin with; hidden files
            that do are left by a process that was killed.
        @param work: Calls a function in a worker thread.
        @param mode: Permissions of the files, whatever the umask.
        """
        self._directory = Path(directory).absolute()
        self._host = safeHost(node)
        self._work = work
        self._mode = mode

    def startService(self) -> None:
        """
        @raise StartError: The directory cannot be written to.
        """
        try:
            self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            leftovers = list(self._directory.glob(f".{self._host}-*.pcap.part"))
        except OSError as error:
            raise StartError(
                f"[general] localdir: {self._directory}: {error.strerror}"
            ) from None
        if not os.access(self._directory, os.W_OK | os.X_OK):
            raise StartError(
                f"[general] localdir: {self._directory}: no permission to write"
            )
        for leftover in leftovers:
            try:
                leftover.unlink(missing_ok=True)
            except OSError as error:
                # Of another user in a directory like /tmp; it is in nobody's way.
                self._log.warn("incomplete, not removed: {error}", error=error)
            else:
                self._log.warn("removed {path}: incomplete", path=str(leftover))
        super().startService()

    def store(self, recording: Recording) -> Deferred[str]:
        return self._work(self._write, recording)

    def _write(self, recording: Recording) -> str:
        """
        In a worker thread.

        @raise OSError: The file is not there.
        """
        path = self._directory / recording.filename
        part = self._directory / f".{recording.filename}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        target = os.open(part, flags, 0o600)
        try:
            try:
                os.fchmod(target, self._mode)
                with recording.open() as source:
                    buffer = memoryview(bytearray(_CHUNK))
                    while count := source.readinto(buffer):
                        _write(target, buffer[:count])
                os.fsync(target)
            finally:
                os.close(target)
            os.rename(part, path)
        except BaseException:
            os.unlink(part)
            raise
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return path.as_uri()
