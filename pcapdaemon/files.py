# See LICENSE for details.
"""
Files that are complete or absent, whatever happens. Everything here blocks.
"""

from __future__ import annotations

import errno
import fcntl
import os
from io import BufferedIOBase, UnsupportedOperation
from pathlib import Path

#: Bytes that are copied at once.
_CHUNK = 256 << 10


def writeFile(path: Path, source: BufferedIOBase, mode: int) -> None:
    """
    Copy a stream into a file: under a hidden name beside it first, then, when
    all of it has reached the disk, under its own, in the place of an older one.

    @param source: Read to its end; nothing of it has been read yet.
    @param mode: Permissions of the file, whatever the umask.
    @raise OSError: There is no new file.
    """
    part = path.with_name(f".{path.name}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    target = os.open(part, flags, 0o600)
    try:
        try:
            # So that nobody takes it for one that a killed process has left.
            fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(target, mode)
            _copy(source, target)
            os.fsync(target)
        finally:
            os.close(target)
        os.rename(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    syncDirectory(path.parent)


def removePart(part: Path) -> bool:
    """
    Remove the hidden file that L{writeFile} left when its process was killed.

    @return: Whether it was one, and not one that is being written.
    @raise OSError: It cannot be removed.
    """
    with part.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        part.unlink(missing_ok=True)
        return True


def _copy(source: BufferedIOBase, target: int) -> None:
    try:
        # An eighth less than reading and writing, memory to memory or to a disk.
        descriptor = source.fileno()
        while os.sendfile(target, descriptor, None, _CHUNK):
            pass
    except UnsupportedOperation:
        pass  # it is no file
    except OSError as error:
        # There are file systems that do not have it.
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    buffer = memoryview(bytearray(_CHUNK))
    while count := source.readinto(buffer):
        _write(target, buffer[:count])


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def syncDirectory(path: Path) -> None:
    """
    Let the names in a directory reach the disk.
    """
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
