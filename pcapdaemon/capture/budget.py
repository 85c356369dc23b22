# See LICENSE for details.
"""
What all captures share: memory for kernel rings, and memory for recordings.
"""

from __future__ import annotations

#: libpcap's rings are of blocks of this size. With less than two, the kernel has
#: nowhere to write while one is read.
BLOCK = 262144
LEAST_RING = 2 * BLOCK


class RingBudget:
    """
    Deals out kernel ring memory so that one capture gets all it can use, a
    thousand get something each, and all together never more than there is.

    Every capture is granted L{LEAST_RING} beforehand; of what is left above
    that, each takes an eighth, so that the first ones get large rings and no
    later one finds nothing.

    @ivar total: The bytes there are.
    @ivar used: The bytes of the rings that are out.
    """

    def __init__(self, total: int, most: int, captures: int) -> None:
        """
        @param total: Bytes for all rings.
        @param most: Bytes that one ring may have.
        @param captures: How many captures there may be at once.
        """
        self.used = 0
        self._taken = 0
        self.resize(total, most, captures)

    def resize(self, total: int, most: int, captures: int) -> None:
        """
        Deal out by other figures from now on. Rings that are out stay as they
        are.
        """
        self.total = total
        self._extra = total - captures * LEAST_RING
        self._most = most

    def take(self) -> int:
        """
        @return: Bytes for one more ring.
        """
        share = (self._extra - self._taken) // 8 // BLOCK * BLOCK
        extra = max(0, min(self._most - LEAST_RING, share))
        self._taken += extra
        self.used += LEAST_RING + extra
        return LEAST_RING + extra

    def give(self, ring: int) -> None:
        """
        @param ring: What L{take} returned.
        """
        self._taken -= ring - LEAST_RING
        self.used -= ring


class MemoryBudget:
    """
    Counts the bytes of all recordings, running and waiting for their sinks.

    @ivar total: The bytes there are.
    @ivar used: The bytes in use.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0

    @property
    def spent(self) -> bool:
        """Whether nothing is left."""
        return self.used >= self.total

    def take(self, size: int) -> None:
        self.used += size

    def give(self, size: int) -> None:
        self.used -= size
