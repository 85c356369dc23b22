# See LICENSE for details.
"""
Tests for L{pcapdaemon.kept}.
"""

from __future__ import annotations

import os

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.capture.recording import Recording
from pcapdaemon.kept import Shelf
from pcapdaemon.test.fixtures import makeRecording

PAGE = 4096


def held(recording: Recording) -> int:
    """
    How many descriptors this process has of the memory file of a recording.
    """
    return sum(
        recording.filename in os.readlink(descriptor)
        for descriptor in os.scandir("/proc/self/fd")
    )


class ShelfTests(SynchronousTestCase):
    """
    Tests for L{Shelf}.
    """

    def setUp(self) -> None:
        self.shelf = Shelf(3 * PAGE, most=4)
        self.addCleanup(self.shelf.close)

    def keep(self, id: str, size: int = 10) -> Recording:
        """Keep a recording, which its sinks are done with."""
        recording = makeRecording(self, id, id[-1].encode() * size)
        self.shelf.keep(recording)
        recording.close()
        return recording

    def kept(self) -> list[str]:
        """Which captures are kept."""
        return [id for id in map("c{}".format, range(9)) if self.shelf.get(id)]

    def test_content(self) -> None:
        """
        A file is there when its recording is closed, and reads from its
        beginning, however many do.
        """
        recording = self.keep("c1", 5000)
        file = self.shelf.get("c1")
        assert file is not None
        self.assertEqual((file.filename, file.size), (recording.filename, 5000))
        for _ in range(2):
            with file.open() as first, file.open() as second:
                self.assertEqual(first.read(), b"1" * 5000)
                self.assertEqual(second.read(), b"1" * 5000)
        self.assertIsNone(self.shelf.get("c2"))

    def test_budget(self) -> None:
        """
        The oldest go when there is no room, by what they take, and their memory
        is given back.
        """
        first, second = self.keep("c1"), self.keep("c2", PAGE + 1)
        self.assertEqual((self.kept(), self.shelf.used), (["c1", "c2"], 3 * PAGE))
        self.keep("c3")
        self.assertEqual((self.kept(), self.shelf.used), (["c2", "c3"], 3 * PAGE))
        self.assertEqual((held(first), held(second)), (0, 1))

    def test_tooLarge(self) -> None:
        """
        One that would need all the room and more leaves the others alone.
        """
        self.keep("c1")
        self.keep("c2", 3 * PAGE + 1)
        self.assertEqual(self.kept(), ["c1"])
        self.keep("c3", 3 * PAGE)
        self.assertEqual(self.kept(), ["c3"])

    def test_most(self) -> None:
        """
        There are never more than so many, however small.
        """
        self.shelf.budget = 100 * PAGE
        for number in range(6):
            self.keep(f"c{number}")
        self.assertEqual(self.kept(), ["c2", "c3", "c4", "c5"])

    def test_lowered(self) -> None:
        """
        A lower budget holds at once; without one nothing is kept.
        """
        recordings = [self.keep(f"c{number}") for number in range(3)]
        self.shelf.budget = PAGE
        self.assertEqual((self.kept(), self.shelf.used), (["c2"], PAGE))
        self.shelf.budget = 0
        self.assertEqual((self.kept(), self.shelf.used), ([], 0))
        self.keep("c4")
        self.assertEqual((self.kept(), self.shelf.used), ([], 0))
        self.assertEqual([held(recording) for recording in recordings], [0, 0, 0])

    def test_impossible(self) -> None:
        """
        That a file cannot be kept is said, and hurts nobody.
        """
        recording = makeRecording(self, "c1")
        recording.close()
        with capturedLogs() as events:
            self.shelf.keep(recording)
        self.assertEqual((self.kept(), self.shelf.used), ([], 0))
        [event] = events
        self.assertIn(f"{recording.filename} is not kept", str(formatEvent(event)))

    def test_reader(self) -> None:
        """
        Who reads a file reads it to its end, also when it is kept no longer.
        """
        self.keep("c1", 3 * PAGE)
        file = self.shelf.get("c1")
        assert file is not None
        with file.open() as stream:
            self.shelf.close()
            self.assertEqual(stream.read(), b"1" * 3 * PAGE)
