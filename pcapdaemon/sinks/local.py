# See LICENSE for details.
"""
A directory of this machine.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zope.interface import implementer

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pcapdaemon.capture.recording import Recording
from pcapdaemon.files import removePart, writeFile
from pcapdaemon.interfaces import ISink, StartError, StoreError
from pcapdaemon.plan import safeHost
from pcapdaemon.request import CaptureRequest

#: What passes, or what an operator mends while the daemon runs.
_TRANSIENT = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EDQUOT,
    errno.EEXIST,  # the hidden name: of an attempt that was cut off and goes on
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOENT,  # the directory: it may be a mount that comes back
    errno.ENOMEM,
    errno.ENOSPC,
    errno.ESTALE,
    errno.ETIMEDOUT,
}


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
                if removePart(leftover):
                    self._log.warn("removed {path}: incomplete", path=str(leftover))
            except OSError as error:
                # Of another user in a directory like /tmp; it is in nobody's way.
                self._log.warn("incomplete, not removed: {error}", error=error)
        super().startService()

    def examine(self, request: CaptureRequest) -> None:
        """
        A request has no say in where it goes here.
        """

    def store(self, recording: Recording) -> Deferred[str]:
        return self._work(self._write, recording)

    def _write(self, recording: Recording) -> str:
        """
        In a worker thread.

        @raise StoreError: The file is not there.
        """
        path = self._directory / recording.filename
        try:
            with recording.open() as source:
                writeFile(path, source, self._mode)
        except OSError as error:
            said = f"{path}: {error.strerror or error}"
            raise StoreError(said, error.errno in _TRANSIENT) from error
        return path.as_uri()
