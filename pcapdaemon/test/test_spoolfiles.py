# See LICENSE for details.
"""
Tests for L{pcapdaemon.spoolfiles}.
"""

from __future__ import annotations

import errno
import json
import os
import resource
from hashlib import sha256
from pathlib import Path

import attrs

from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.capture.recording import Recording
from pcapdaemon.interfaces import Drops, StartError, StoreError
from pcapdaemon.spoolfiles import Damaged, SpoolFiles
from pcapdaemon.test.fixtures import EPOCH
from pcapdaemon.test.spooling import ROOM, makeSealed

#: More than is copied at once.
LARGE = bytes(range(256)) * 3000


class _Tests(SynchronousTestCase):
    """
    Tests that have a directory.
    """

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.files = self.opened()

    def opened(self) -> SpoolFiles:
        """Take the directory."""
        files = SpoolFiles(str(self.directory))
        files.open()
        self.addCleanup(files.close)
        return files

    def names(self) -> list[str]:
        """What is in the directory, but for the lock."""
        return sorted(set(os.listdir(self.directory)) - {"lock"})

    def save(self, recording: Recording, sink: str = "one", age: int = 0) -> str:
        """Keep a recording, and say what it is called."""
        self.files.save(recording, sink, EPOCH - age, ROOM)
        return recording.filename

    def path(self, name: str, suffix: str) -> Path:
        """One of the two files of an entry."""
        return self.directory / f"{name}.{suffix}"


class SpoolFilesTests(_Tests):
    """
    Tests for L{SpoolFiles} as long as nothing is damaged.
    """

    def test_everything(self) -> None:
        """
        A recording is the same after a restart, with all that was asked.
        """
        recording = attrs.evolve(
            makeSealed(
                self,
                content=LARGE,
                alertid=2**62,
                customer="K\u00fche \U0001f404",
                tags="a,b",
                timeout=0.1,
                folder="f",
                bucket="b",
                acl="private",
                region="r",
                endpoint="e",
                encryption=False,
                aliases=("x", "y"),
                ignored=("z",),
            ),
            drops=Drops(kernel=1, interface=2),
            armed=EPOCH + 0.1,
        )
        name = self.save(recording)
        recording.close()
        self.files.close()
        files = self.opened()
        self.assertEqual(files.scan(), [(EPOCH, name, ("one",))])
        entry = files.load(name)
        files.verify(entry)
        self.assertEqual(
            attrs.evolve(entry.recording, file=None), attrs.evolve(recording, file=None)
        )
        self.assertEqual(entry.recording.filename, recording.filename)
        self.assertEqual(entry.recording.plan.tags, recording.plan.tags)
        for _ in range(2):
            with entry.recording.open() as stream:
                self.assertEqual(stream.read(), LARGE)
        entry.recording.close()

    def test_private(self) -> None:
        """Nobody else can read what was captured."""
        self.save(makeSealed(self))
        self.assertEqual(self.directory.stat().st_mode & 0o077, 0)
        for path in self.directory.iterdir():
            self.assertEqual(path.stat().st_mode & 0o077, 0, path)

    def test_sinks(self) -> None:
        """
        Sinks share one pcap, which goes when the last one has it.
        """
        recording = makeSealed(self)
        for sink in ("one", "two", "two"):
            name = self.save(recording, sink)
        self.assertEqual(self.names(), [f"{name}.json", f"{name}.spool"])
        self.assertEqual(self.reopened().scan(), [(EPOCH, name, ("one", "two"))])
        self.files.forget(name, "one")
        self.assertEqual(self.files.load(name).sinks, ("two",))
        self.files.verify(self.files.load(name))
        self.files.forget(name, "two")
        self.assertEqual(self.names(), [])
        self.assertEqual(self.files.used, 0)
        self.files.forget(name, "two")

    def reopened(self) -> SpoolFiles:
        """Give the directory back and take it again."""
        self.files.close()
        self.files = self.opened()
        return self.files

    def test_firstTime(self) -> None:
        """How old an entry is counts from the first sink."""
        recording = makeSealed(self)
        self.files.save(recording, "one", EPOCH, ROOM)
        self.assertEqual(self.files.save(recording, "two", EPOCH + 9, ROOM), EPOCH)

    def test_order(self) -> None:
        """What came first is found first."""
        names = [
            self.save(makeSealed(self, id), age=age)
            for id, age in (("a", 1), ("b", 3), ("c", 2))
        ]
        found = [name for _, name, _ in self.files.scan()]
        self.assertEqual(found, [names[1], names[2], names[0]])

    def test_used(self) -> None:
        """
        What is used is counted in blocks, and found again after a restart.
        """
        name = self.save(makeSealed(self, "a", b"x" * 4097))
        self.assertEqual(self.files.used, 3 * 4096)
        self.save(makeSealed(self, "b", tags="x" * 5000))
        self.assertEqual(self.files.used, 6 * 4096)
        self.reopened().scan()
        self.assertEqual(self.files.used, 6 * 4096)
        self.files.forget(name, "one")
        self.assertEqual(self.files.used, 3 * 4096)

    def test_full(self) -> None:
        """
        What does not fit is refused, with the limit; what is there stays.
        """
        name = self.save(makeSealed(self, "a"))
        error = self.assertRaises(
            StoreError,
            self.files.save,
            makeSealed(self, "b"),
            "one",
            EPOCH,
            4 * 4096 - 1,
        )
        self.assertIn("maxsize = 16383", str(error))
        self.assertEqual(self.names(), [f"{name}.json", f"{name}.spool"])
        self.files.save(makeSealed(self, "b"), "one", EPOCH, 4 * 4096)
        # One more sink for what is there needs no room.
        self.files.save(makeSealed(self, "b"), "two", EPOCH, 4 * 4096)

    def test_diskFull(self) -> None:
        """
        When the disk takes a part only nothing of it stays.
        """
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        recording = makeSealed(self, content=LARGE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(LARGE) // 2, limits[1]))
        try:
            error = self.assertRaises(
                StoreError, self.files.save, recording, "one", EPOCH, ROOM
            )
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        self.assertIn(os.strerror(errno.EFBIG), str(error))
        self.assertEqual(self.names(), [])
        self.assertEqual(self.files.used, 0)

    def test_locked(self) -> None:
        """
        A directory is for one daemon at a time.
        """
        other = SpoolFiles(str(self.directory))
        error = self.assertRaises(StartError, other.open)
        self.assertIn("[spool] directory", str(error))
        self.assertIn("another daemon", str(error))
        self.files.close()
        other.open()
        other.close()
        other.close()

    def test_impossible(self) -> None:
        """A directory that cannot be made is named."""
        path = Path(self.mktemp())
        path.touch()
        for directory in (path, path / "below"):
            error = self.assertRaises(StartError, SpoolFiles(str(directory)).open)
            self.assertIn(str(directory), str(error))

    def test_killed(self) -> None:
        """
        What a killed process had not finished, or not finished removing, is
        tidied up.
        """
        name = self.save(makeSealed(self))
        for leftover in (
            f".{name}.spool.part",
            f".{name}.json.part",
            "web1-eth0-1-b.pcap.spool",
        ):
            (self.directory / leftover).write_bytes(b"x")
        self.assertEqual(len(self.files.scan()), 1)
        self.assertEqual(self.names(), [f"{name}.json", f"{name}.spool"])

    def test_foreign(self) -> None:
        """Files of others are left in peace, and are no entries."""
        foreign = ["a.json", "a.spool", "b.pcap", ".b.pcap.part", "c.txt", "d.damaged"]
        for name in foreign:
            (self.directory / name).write_bytes(b"x")
        self.assertEqual(self.files.scan(), [])
        self.assertEqual(self.names(), sorted(foreign))
        self.assertEqual(self.files.used, 0)


class DamageTests(_Tests):
    """
    What an accident leaves.
    """

    def assertSetAside(self, name: str) -> None:
        """
        Assert that an entry is none any more, but still to be looked at.
        """
        before = {path.read_bytes() for path in self.directory.iterdir()}
        other = self.save(makeSealed(self, "other"))
        with capturedLogs() as logged:
            self.assertEqual([found[1] for found in self.files.scan()], [other])
        [error] = [e for e in logged if e["log_level"] is LogLevel.error]
        self.assertEqual(error["name"], name)
        self.assertLessEqual(before, {p.read_bytes() for p in self.directory.iterdir()})
        # It still takes room, is nothing to say anything of, and in nobody's way.
        used = self.files.used
        with capturedLogs() as logged:
            self.files.scan()
        self.assertEqual(list(logged), [])
        self.assertEqual(self.files.used, used)
        self.assertGreater(used, 2 * 4096)
        self.files.forget(other, "one")

    def test_about(self) -> None:
        """
        An entry whose description makes no sense is set aside.
        """
        recording = makeSealed(self)
        name = recording.filename
        about = self.path(name, "json")
        self.save(recording)
        good = about.read_bytes()
        changed = json.loads(good)
        changed["entry"]["sinks"] = []
        for data in (
            b"",
            good[:-1],
            good[: len(good) // 2],
            bytes(len(good)),
            b"\xff" * 100,
            b"[" * 100_000,
            b"null",
            b"[]",
            b'"entry"',
            b'{"entry": 1, "sha256": 2}',
            good.replace(b'"eth0"', b'"eth1"'),
            json.dumps(changed).encode(),
        ):
            self.save(recording)
            about.write_bytes(data)
            self.assertRaises(Damaged, self.files.load, name)
            self.assertSetAside(name)
            for path in self.directory.glob("*.damaged"):
                path.unlink()

    def test_otherVersion(self) -> None:
        """
        So is one that is meant for another version, or another name, although
        nothing is wrong with it.
        """
        name = self.save(makeSealed(self))
        data = self.path(name, "json").read_bytes()
        self.path("web1-x.pcap", "json").write_bytes(data)
        error = self.assertRaises(Damaged, self.files.load, "web1-x.pcap")
        self.assertIn(name, str(error))
        entry = json.loads(data)["entry"]
        entry["version"] = 2
        canonical = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
        whole = {"entry": entry, "sha256": sha256(canonical).hexdigest()}
        self.path(name, "json").write_text(json.dumps(whole))
        error = self.assertRaises(Damaged, self.files.load, name)
        self.assertIn("version 2", str(error))

    def test_pcap(self) -> None:
        """
        An entry whose pcap is missing, cut or changed is not what was captured.
        """
        name = self.save(makeSealed(self, content=LARGE))
        pcap = self.path(name, "spool")
        for data in (LARGE[:-1], LARGE[:-1] + b"?", b""):
            pcap.write_bytes(data)
            error = self.assertRaises(Damaged, self.files.verify, self.files.load(name))
            assert error.entry is not None
            self.assertEqual(error.entry.name, name)
        pcap.unlink()
        error = self.assertRaises(Damaged, self.files.verify, self.files.load(name))
        self.assertIn("missing", str(error))

    def test_whileUsed(self) -> None:
        """
        Damage that is found when an entry is changed sets it aside; what is to
        be kept there is kept anew.
        """
        recording = makeSealed(self)
        name = self.save(recording)
        self.path(name, "json").write_bytes(b"?")
        self.save(recording, "two")
        self.assertEqual(self.files.load(name).sinks, ("two",))
        self.files.verify(self.files.load(name))
        self.path(name, "json").write_bytes(b"?")
        self.files.forget(name, "two")
        self.assertRaises(FileNotFoundError, self.files.load, name)

    def test_unreadable(self) -> None:
        """
        What cannot be read just now is not touched.
        """
        name = self.save(makeSealed(self))
        about = self.path(name, "json")
        about.unlink()
        about.mkdir()
        self.assertEqual(self.files.scan(), [])
        self.assertEqual(self.names(), [f"{name}.json", f"{name}.spool"])
