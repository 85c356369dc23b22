# See LICENSE for details.
"""
Tests for L{pcapdaemon.capture.budget}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.capture.budget import BLOCK, LEAST_RING, MemoryBudget, RingBudget
from pcapdaemon.config.sections import CaptureSettings

MOST = 64 << 20
TOTAL = 1 << 30


class RingBudgetTests(SynchronousTestCase):
    """
    Tests for L{RingBudget}.
    """

    def test_defaults(self) -> None:
        """With the default settings the first capture gets all it may have."""
        settings = CaptureSettings()
        self.assertEqual(settings.maxcaptures, 1000)
        rings = RingBudget(
            settings.totalbuffer, settings.buffersize, settings.maxcaptures
        )
        self.assertEqual(rings.take(), settings.buffersize)

    def test_thousand(self) -> None:
        """A thousand rings fit, none is too small, and none larger than before."""
        rings = RingBudget(TOTAL, MOST, 1000)
        taken = [rings.take() for _ in range(1000)]
        self.assertLessEqual(sum(taken), TOTAL)
        self.assertEqual(taken, sorted(taken, reverse=True))
        self.assertEqual(taken[-1], LEAST_RING)
        self.assertTrue(all(ring % BLOCK == 0 for ring in taken))

    def test_bounds(self) -> None:
        """
        Whatever the figures, the sum stays within the total, and each ring has
        at least the least and at most the most.
        """
        for captures, extra, most in (
            (1, 0, LEAST_RING),
            (1, 100 << 20, 100 << 20),
            (3, 1, MOST),
            (7, BLOCK * 9, LEAST_RING + BLOCK),
            (64, MOST, MOST),
        ):
            total = captures * LEAST_RING + extra
            rings = RingBudget(total, most, captures)
            taken = [rings.take() for _ in range(captures)]
            self.assertLessEqual(sum(taken), total)
            self.assertGreaterEqual(min(taken), LEAST_RING)
            self.assertLessEqual(max(taken), most)

    def test_give(self) -> None:
        """What was given back can be taken again, in any order."""
        rings = RingBudget(TOTAL, MOST, 1000)
        first = [rings.take() for _ in range(1000)]
        for ring in first[::2] + first[1::2]:
            rings.give(ring)
        self.assertEqual([rings.take() for _ in range(1000)], first)

    def test_shrunk(self) -> None:
        """
        After the total shrank below what is out, a ring is the least one, until
        enough has come back.
        """
        rings = RingBudget(TOTAL, MOST, 10)
        out = [rings.take(), rings.take()]
        rings.resize(MOST, MOST, 10)
        self.assertEqual(rings.take(), LEAST_RING)
        for ring in out:
            rings.give(ring)
        self.assertGreater(rings.take(), LEAST_RING)

    def test_grown(self) -> None:
        """More memory makes larger rings from then on."""
        rings = RingBudget(10 * LEAST_RING, MOST, 10)
        self.assertEqual(rings.take(), LEAST_RING)
        rings.resize(TOTAL, 2 * MOST, 10)
        self.assertGreater(rings.take(), MOST)


class MemoryBudgetTests(SynchronousTestCase):
    """
    Tests for L{MemoryBudget}.
    """

    def test_spent(self) -> None:
        """It is spent as soon as the last byte is in use, and not before."""
        memory = MemoryBudget(100)
        memory.take(99)
        self.assertFalse(memory.spent)
        memory.take(1)
        self.assertTrue(memory.spent)
        memory.give(1)
        self.assertFalse(memory.spent)
        self.assertEqual(memory.used, 99)
        memory.total = 50
        self.assertTrue(memory.spent)
