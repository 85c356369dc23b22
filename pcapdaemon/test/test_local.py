# See LICENSE for details.
"""
Tests for L{pcapdaemon.sinks.local}.
"""

from __future__ import annotations

import errno
import os
import resource
import traceback
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import cast
from urllib.parse import unquote, urlsplit

import attrs
from zope.interface.verify import verifyObject

from twisted.application.service import IService
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.capture.recording import Recording
from pcapdaemon.interfaces import ISink, StartError, StoreError
from pcapdaemon.sinks.local import LocalSink
from pcapdaemon.test.fixtures import Worker, makeRecording

#: More than is copied at once, and not a multiple of it.
LARGE = bytes(range(256)) * 3000

NOBODY = 65534


def unprivileged(f: Callable[[], str]) -> str:
    """
    What a function returns in a process that may not do everything.
    """
    if os.getuid():
        return f()
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writer, f().encode())
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as stream:
        result = stream.read()
    os.waitpid(child, 0)
    return result


class _Tests(SynchronousTestCase):
    """
    Tests that have a sink.
    """

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.work = Worker()
        self.sink = self.makeSink()

    def makeSink(self, node: str = "web1") -> LocalSink:
        """A sink that has not been started."""
        return LocalSink(str(self.directory), node, self.work)

    def files(self) -> list[str]:
        """What is in the directory."""
        return sorted(os.listdir(self.directory))


class LocalSinkTests(_Tests):
    """
    Tests for L{LocalSink}.
    """

    def test_interface(self) -> None:
        """It is a sink, and a service."""
        verifyObject(ISink, self.sink)
        verifyObject(IService, self.sink)

    def test_store(self) -> None:
        """All of the recording gets there, under its name, in a worker thread."""
        self.sink.startService()
        recording = makeRecording(self, content=LARGE)
        self.work.held = True
        stored = self.sink.store(recording)
        self.assertEqual(self.files(), [])
        self.work.release()
        path = self.directory / recording.filename
        url = urlsplit(self.successResultOf(stored))
        self.assertEqual((url.scheme, url.netloc), ("file", ""))
        self.assertEqual(unquote(url.path), str(path))
        self.assertEqual(path.read_bytes(), LARGE)
        self.assertEqual(self.files(), [recording.filename])

    def test_relative(self) -> None:
        """
        A relative directory is that of the start, wherever the process goes.
        """
        self.addCleanup(os.chdir, os.getcwd())
        sink = LocalSink(os.path.relpath(self.directory), "web1", self.work)
        os.chdir("/")
        sink.startService()
        recording = makeRecording(self)
        self.successResultOf(sink.store(recording))
        self.assertEqual(self.files(), [recording.filename])

    def test_url(self) -> None:
        """The URL is one, whatever the directory is called."""
        self.directory = self.directory / "a b#c?\u00e4"
        sink = self.makeSink()
        sink.startService()
        recording = makeRecording(self)
        url = urlsplit(self.successResultOf(sink.store(recording)))
        self.assertEqual((url.query, url.fragment), ("", ""))
        path = Path(unquote(url.path))
        self.assertEqual(path, self.directory / recording.filename)
        self.assertEqual(path.read_bytes(), b"pcap")

    def test_mode(self) -> None:
        """The file's permissions do not depend on the umask."""
        self.sink.startService()
        self.addCleanup(os.umask, os.umask(0))
        for number, umask in enumerate((0, 0o077, 0o777)):
            os.umask(umask)
            recording = makeRecording(self, f"id{number}")
            self.successResultOf(self.sink.store(recording))
            status = (self.directory / recording.filename).stat()
            self.assertEqual(status.st_mode & 0o7777, 0o640)

    def test_hidden(self) -> None:
        """
        While it is incomplete a file has a hidden name, and is nobody else's.
        """
        seen: list[tuple[list[str], int]] = []
        directory, files = self.directory, self.files

        class Stream(BytesIO):
            """A file that sees who is about while it is read."""

            def readinto(self, buffer: object) -> int:
                [name] = files()
                status = (directory / name).stat()
                seen.append(([name], status.st_mode & 0o007))
                return super().readinto(buffer)  # type: ignore[arg-type]

        @attrs.frozen
        class Watched:
            """As much of a recording as a sink needs."""

            filename: str = "web1-eth0-1-a.pcap"

            def open(self) -> Stream:
                """The content."""
                return Stream(LARGE)

        self.sink.startService()
        self.successResultOf(self.sink.store(cast(Recording, Watched())))
        self.assertGreater(len(seen), 2)
        for names, others in seen:
            self.assertEqual(names, [".web1-eth0-1-a.pcap.part"])
            self.assertEqual(others, 0)
        self.assertEqual(self.files(), ["web1-eth0-1-a.pcap"])

    def test_unsupported(self) -> None:
        """
        A file system that the kernel cannot copy to by itself gets the file, too.
        """

        def sendfile(*arguments: object) -> int:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        self.patch(os, "sendfile", sendfile)
        recording = makeRecording(self, content=LARGE)
        self.sink.startService()
        self.successResultOf(self.sink.store(recording))
        path = self.directory / recording.filename
        self.assertEqual(path.read_bytes(), LARGE)

    def test_full(self) -> None:
        """
        When the file cannot be completed nothing of it stays, the error says
        why, and the next one is stored again.
        """
        self.sink.startService()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        recording = makeRecording(self, content=LARGE)
        # As good as a full disk: a part can be written, the next not.
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(LARGE) // 2, limits[1]))
        try:
            stored = self.sink.store(recording)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        error = self.failureResultOf(stored, StoreError).value
        self.assertIn(os.strerror(errno.EFBIG), str(error))
        self.assertFalse(error.transient)
        self.assertEqual(self.files(), [])
        self.successResultOf(self.sink.store(recording))
        self.assertEqual(self.files(), [recording.filename])

    def test_unreadable(self) -> None:
        """The same when the recording cannot be read."""

        class Unreadable:
            """A recording that is gone."""

            filename = "web1-eth0-1-a.pcap"

            def open(self) -> BytesIO:
                """It cannot be."""
                raise OSError(errno.EBADF, "gone")

        self.sink.startService()
        recording = cast(Recording, Unreadable())
        self.failureResultOf(self.sink.store(recording), StoreError)
        self.assertEqual(self.files(), [])

    def test_transient(self) -> None:
        """
        What passes by itself, or is mended by an operator, is worth another try;
        what will be the same every time is not.
        """

        @attrs.frozen
        class Failing:
            """A recording whose reading fails."""

            number: int
            filename: str = "web1-eth0-1-a.pcap"

            def open(self) -> BytesIO:
                """It cannot be."""
                raise OSError(self.number, os.strerror(self.number))

        self.sink.startService()
        for number, transient in [
            (errno.ENOSPC, True),
            (errno.EDQUOT, True),
            (errno.EIO, True),
            (errno.ESTALE, True),
            (errno.ENFILE, True),
            (errno.EMFILE, True),
            (errno.EACCES, False),
            (errno.EROFS, False),
            (errno.ENAMETOOLONG, False),
            (errno.ENOENT, True),
        ]:
            stored = self.sink.store(cast(Recording, Failing(number)))
            error = self.failureResultOf(stored, StoreError).value
            self.assertEqual(error.transient, transient, errno.errorcode[number])
            self.assertIn(os.strerror(number), str(error))

    def test_again(self) -> None:
        """
        What is stored once more, after a restart for instance, is there once;
        while an earlier attempt still writes it another one fails for now.
        """
        self.sink.startService()
        recording = makeRecording(self, content=LARGE)
        part = self.directory / f".{recording.filename}.part"
        part.touch()
        error = self.failureResultOf(self.sink.store(recording), StoreError).value
        self.assertTrue(error.transient)
        self.assertTrue(part.exists())
        part.unlink()
        for _ in range(2):
            self.successResultOf(self.sink.store(recording))
            self.assertEqual(self.files(), [recording.filename])

    def test_directoryGone(self) -> None:
        """A directory that was removed later fails the store, and is named."""
        self.sink.startService()
        self.directory.rmdir()
        stored = self.sink.store(makeRecording(self))
        error = self.failureResultOf(stored, StoreError).value
        self.assertIn(str(self.directory), str(error))

    def test_nameTaken(self) -> None:
        """A file whose name is taken by a directory is not left half there."""
        self.sink.startService()
        recording = makeRecording(self)
        (self.directory / recording.filename).mkdir()
        self.failureResultOf(self.sink.store(recording), StoreError)
        self.assertEqual(self.files(), [recording.filename])


class StartTests(_Tests):
    """
    Tests for the start of L{LocalSink}.
    """

    def assertCannotStart(self) -> None:
        """The start says which setting is wrong."""
        error = self.assertRaises(StartError, self.sink.startService)
        self.assertIn("localdir", str(error))
        self.assertIn(str(self.directory), str(error))
        self.assertFalse(self.sink.running)

    def test_makes(self) -> None:
        """The directory is made with all that is above it, not for everybody."""
        self.directory = self.directory / "a" / "b"
        self.makeSink().startService()
        self.assertEqual(self.directory.stat().st_mode & 0o007, 0)

    def test_nothingBeforeStart(self) -> None:
        """Making a sink makes no directory."""
        self.assertFalse(self.directory.exists())

    def test_file(self) -> None:
        """A file is no directory."""
        self.directory.write_bytes(b"")
        self.assertCannotStart()

    def test_impossible(self) -> None:
        """A directory that cannot be made is a mistake."""
        self.directory = Path("/proc/self/captures")
        self.sink = self.makeSink()
        self.assertCannotStart()

    def test_permission(self) -> None:
        """So is one that may not be written to."""
        self.directory.mkdir(mode=0o555)

        def start() -> str:
            try:
                self.sink.startService()
            except StartError as error:
                return str(error)
            return "started"

        said = unprivileged(start)
        self.assertIn("[general] localdir", said)
        self.assertRegex(said, "(?i)permission")

    def test_leftovers(self) -> None:
        """
        What this node did not complete in an earlier life is removed; complete
        files, and everything of others, are not.
        """
        keep = [
            ".web1-eth0-1-a.pcap",
            ".web1.pcap.part",
            ".web10-eth0-1-a.pcap.part",
            ".web2-eth0-1-a.pcap.part",
            "web1-eth0-1-a.pcap",
            "web1-eth0-1-a.pcap.part",
        ]
        self.directory.mkdir()
        for name in (*keep, ".web1-eth0-1-a.pcap.part", ".web1-br-0-1-b.pcap.part"):
            (self.directory / name).write_bytes(b"x")
        with capturedLogs() as logged:
            self.sink.startService()
        self.assertEqual(self.files(), sorted(keep))
        warnings = [event for event in logged if event["log_level"] is LogLevel.warn]
        self.assertEqual(len(warnings), 2)

    def test_leftoversOfOddNames(self) -> None:
        """
        A node whose name is not fit for a file name finds its leftovers too, and
        takes nothing else for them.
        """
        for node in ("web 1/[a-z]*", "x" * 300, "-web", ".web"):
            sink = self.makeSink(node)
            recording = makeRecording(self)
            plan = attrs.evolve(recording.plan, node=node)
            other = ".web 1-eth0-1-a.pcap.part"
            sink.startService()
            (self.directory / f".{plan.filename}.part").write_bytes(b"x")
            (self.directory / other).write_bytes(b"x")
            sink.startService()
            self.assertEqual(self.files(), [other])

    def test_leftoverStays(self) -> None:
        """One that cannot be removed is said, and in nobody's way."""
        name = ".web1-eth0-1-a.pcap.part"
        (self.directory / name).mkdir(parents=True)
        with capturedLogs() as logged:
            self.sink.startService()
        self.assertTrue(self.sink.running)
        self.assertEqual(self.files(), [name])
        [warning] = [e for e in logged if e["log_level"] is LogLevel.warn]
        self.assertIn(name, str(warning["error"]))
