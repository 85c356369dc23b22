# See LICENSE for details.
"""
What a spool keeps on disk.

Each recording is two files, C{NAME.spool}, the pcap, and C{NAME.json}, what is
known about it and which sinks are to get it. It is the latter whose existence
makes an entry exist: it comes last and goes first. Both are written under hidden
names and renamed when they have reached the disk, so that nothing is ever seen in
part, at whatever moment the process is killed.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

import attrs

from twisted.logger import Logger

from pcapdaemon.capture.recording import Recording, digest
from pcapdaemon.files import syncDirectory, writeFile
from pcapdaemon.interfaces import Drops, StartError, StoreError
from pcapdaemon.plan import CapturePlan
from pcapdaemon.request import CaptureRequest

_VERSION = 1
_PCAP, _ABOUT, _DAMAGED = ".spool", ".json", ".damaged"
#: Files take whole blocks; counting these also bounds how many entries there are.
_BLOCK = 4096


class Damaged(Exception):
    """
    An entry cannot be used; the text says why.

    @ivar entry: What is known nevertheless.
    """

    def __init__(self, text: str, entry: Entry | None = None) -> None:
        super().__init__(text)
        self.entry = entry


@attrs.frozen
class _StoredFile:
    path: Path

    def open(self) -> BufferedReader:
        """See L{pcapdaemon.capture.recording.File}."""
        return open(self.path, "rb")

    def close(self) -> None:
        """See L{pcapdaemon.capture.recording.File}."""


@attrs.frozen
class Entry:
    """
    One recording in the spool.

    @ivar recording: As it was, but for where its file is.
    @ivar sinks: The names of those that are to get it.
    @ivar spooled: When it came, in seconds since the epoch.
    """

    recording: Recording
    sinks: tuple[str, ...]
    spooled: float

    @property
    def name(self) -> str:
        """What the recording's file is called, here and everywhere."""
        return self.recording.filename


def _blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _checksum(entry: object) -> str:
    canonical = json.dumps(entry, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _dump(entry: Entry) -> bytes:
    recording = attrs.asdict(
        entry.recording, filter=lambda field, _: field.name != "_file"
    )
    about = {
        "version": _VERSION,
        "spooled": entry.spooled,
        "sinks": entry.sinks,
        "recording": recording,
    }
    return json.dumps({"sha256": _checksum(about), "entry": about}).encode("ascii")


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in fields.items()
    }


def _load(data: bytes, file: _StoredFile) -> Entry:
    """
    @raise Damaged: This is not what L{_dump} made.
    """
    try:
        parsed = json.loads(data)
        about = parsed["entry"]
        if parsed["sha256"] != _checksum(about):
            raise Damaged("its checksum is wrong")
        if about["version"] != _VERSION:
            raise Damaged(f"it is of version {about['version']}")
        fields = dict(about["recording"])
        planned = dict(fields.pop("plan"))
        request = CaptureRequest(**_tuples(planned.pop("request")))
        plan = CapturePlan(**planned, request=request)
        drops = Drops(**fields.pop("drops"))
        recording = Recording(**fields, plan=plan, drops=drops, file=file)
        return Entry(recording, tuple(about["sinks"]), about["spooled"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Damaged(f"it cannot be read: {type(error).__name__}") from None


class SpoolFiles:
    """
    The directory. All methods block; no two calls overlap, but that of
    L{verify} with others.

    @ivar used: Bytes on disk, damaged entries included.
    """

    _log = Logger()

    def __init__(self, directory: str) -> None:
        """
        @param directory: Made when it does not exist. It belongs to one daemon
            alone; foreign files in it are left in peace.
        """
        self.directory = Path(directory).absolute()
        self.used = 0
        self._lock = -1

    def open(self) -> None:
        """
        Take the directory.

        @raise StartError: It cannot be used, or somebody else does.
        """
        here = f"[spool] directory: {self.directory}"
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            lock = os.open(self.directory / "lock", flags, 0o600)
        except OSError as error:
            raise StartError(f"{here}: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            busy = isinstance(error, BlockingIOError)
            said = "in use by another daemon" if busy else error.strerror
            raise StartError(f"{here}: {said}") from None
        if not os.access(self.directory, os.R_OK | os.W_OK | os.X_OK):
            os.close(lock)
            raise StartError(f"{here}: no permission to write")
        self._lock = lock

    def close(self) -> None:
        """Give the directory back. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def scan(self) -> list[tuple[float, str, tuple[str, ...]]]:
        """
        Find all entries. Tidies up what a process that was killed had begun, and
        sets aside what is damaged.

        @return: Of each when it came, its name and its sinks; oldest first.
        """
        found: list[tuple[float, str, tuple[str, ...]]] = []
        names = set(os.listdir(self.directory))
        for name in sorted(names):
            path = self.directory / name
            try:
                if re.fullmatch(r"\..*\.pcap\.(spool|json)\.part", name):
                    path.unlink()
                elif not name.endswith((".pcap" + _ABOUT, ".pcap" + _PCAP)):
                    pass  # not ours, or set aside
                elif path.suffix == _ABOUT:
                    entry = self.load(path.stem)
                    found.append((entry.spooled, entry.name, entry.sinks))
                elif path.stem + _ABOUT not in names:
                    # The process was killed before the entry existed, or when
                    # it existed no longer.
                    path.unlink()
            except Damaged as damaged:
                self.setAside(path.stem, damaged)
            except OSError as error:
                self._log.error("spool: {error}", error=error)
        self.used = sum(
            _blocks(path.stat().st_size)
            for path in self.directory.iterdir()
            if re.search(r"\.pcap\.(spool|json)(\.damaged)?$", path.name)
        )
        return sorted(found)

    def load(self, name: str) -> Entry:
        """
        Read an entry.

        @raise Damaged: It makes no sense.
        @raise FileNotFoundError: There is no such entry.
        @raise OSError: It cannot be read now.
        """
        data = self._path(name, _ABOUT).read_bytes()
        entry = _load(data, _StoredFile(self._path(name, _PCAP)))
        if entry.name != name:
            raise Damaged(f"it is for {entry.name}")
        return entry

    def verify(self, entry: Entry) -> None:
        """
        See that the pcap of an entry is what it was.

        @raise Damaged: It is not.
        @raise OSError: It cannot be read now.
        """
        try:
            found = digest(entry.recording)
        except FileNotFoundError:
            raise Damaged("its pcap is missing", entry) from None
        if found != entry.recording.sha256:
            raise Damaged("its pcap has another sha256", entry)

    def save(
        self, recording: Recording, sink: str, spooled: float, maxsize: int
    ) -> float:
        """
        Keep a recording for a sink. When this returns it has reached the disk.

        @param spooled: Now, in seconds since the epoch.
        @param maxsize: The most bytes that all entries may have.
        @return: When the recording came first.
        @raise StoreError: It is not there; the text says why.
        """
        name = recording.filename
        try:
            entry = self._extend(name, sink)
            if entry is None:
                entry = Entry(recording, (sink,), spooled)
                self._create(entry, maxsize)
            return entry.spooled
        except OSError as error:
            said = f"not spooled: {self.directory}: {error.strerror or error}"
            raise StoreError(said, True) from None

    def _extend(self, name: str, sink: str) -> Entry | None:
        """
        Let one more sink wait for an entry, if there is one.
        """
        try:
            entry = self.load(name)
        except FileNotFoundError:
            return None
        except Damaged as damaged:
            self.setAside(name, damaged)
            return None
        if sink not in entry.sinks:
            entry = attrs.evolve(entry, sinks=(*entry.sinks, sink))
            self._rewrite(entry)
        return entry

    def _create(self, entry: Entry, maxsize: int) -> None:
        data = _dump(entry)
        size = _blocks(entry.recording.size) + _blocks(len(data))
        if self.used + size > maxsize:
            raise StoreError(
                f"not spooled: maxsize = {maxsize}, and {self.used} bytes are used",
                True,
            )
        pcap, about = self._path(entry.name, _PCAP), self._path(entry.name, _ABOUT)
        try:
            with entry.recording.open() as source:
                writeFile(pcap, source, 0o600)
            writeFile(about, io.BytesIO(data), 0o600)
        except BaseException:
            about.unlink(missing_ok=True)
            pcap.unlink(missing_ok=True)
            raise
        self.used += size

    def _rewrite(self, entry: Entry) -> None:
        about, data = self._path(entry.name, _ABOUT), _dump(entry)
        before = about.stat().st_size
        writeFile(about, io.BytesIO(data), 0o600)
        self.used += _blocks(len(data)) - _blocks(before)

    def forget(self, name: str, sink: str) -> None:
        """
        A sink needs an entry no longer; the last one lets it go.

        @raise OSError: It may still be there.
        """
        try:
            entry = self.load(name)
        except FileNotFoundError:
            return
        except Damaged as damaged:
            self.setAside(name, damaged)
            return
        sinks = tuple(each for each in entry.sinks if each != sink)
        if sinks:
            self._rewrite(attrs.evolve(entry, sinks=sinks))
            return
        for suffix in (_ABOUT, _PCAP):
            path = self._path(name, suffix)
            try:
                size = path.stat().st_size
                path.unlink()
            except FileNotFoundError:
                continue
            self.used -= _blocks(size)
        syncDirectory(self.directory)

    def setAside(self, name: str, why: Damaged) -> None:
        """
        Let an entry be no entry any more, but keep its files for whoever wants
        to have a look.
        """
        self._log.error(
            "spool: {name} is damaged and set aside in {directory}: {why}",
            name=name,
            directory=str(self.directory),
            why=str(why),
        )
        # The pcap first: alone it would be taken for what was never finished.
        for suffix in (_PCAP, _ABOUT):
            path = self._path(name, suffix)
            try:
                path.rename(path.with_name(path.name + _DAMAGED))
            except FileNotFoundError:
                continue
            except OSError as error:
                self._log.error("spool: {error}", error=error)
                return

    def _path(self, name: str, suffix: str) -> Path:
        return self.directory / (name + suffix)
