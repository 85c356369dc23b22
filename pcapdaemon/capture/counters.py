# See LICENSE for details.
"""
The kernel's counters, in more bits than libpcap has for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pcapdaemon.interfaces import Drops

#: C{pcap_stat} has 32 bits for each.
_WRAP = 1 << 32

#: Seconds after which they are looked at anew: in less than these nothing counts
#: through half of them.
_INTERVAL = 60.0


class Counters:
    """
    Packets received and dropped since a device was opened.

    What counts up to 2**32 and begins anew is added up from the differences, so
    that L{look} must be called now and then while packets flow.

    @ivar received: Packets that the filter let pass.
    @ivar dropped: Those of them that found the ring full.
    @ivar interface: Packets that the device or its driver dropped.
    """

    def __init__(
        self,
        read: Callable[[], tuple[int, int, int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        @param read: What libpcap says now, in the order of the attributes. What
            it raises is passed on.
        @param clock: Seconds.
        """
        self._read = read
        self._clock = clock
        self._last = (0, 0, 0)
        self._due = clock() + _INTERVAL
        self.received = self.dropped = self.interface = 0

    def look(self) -> None:
        """
        Take in what has been counted since the last time.
        """
        now = self._read()
        received, dropped, interface = (
            (new - old) % _WRAP for new, old in zip(now, self._last, strict=True)
        )
        self._last = now
        self._due = self._clock() + _INTERVAL
        self.received += received
        self.dropped += dropped
        # A device that is reset begins anew, which is no loss of billions.
        if interface < _WRAP // 2:
            self.interface += interface

    def keep(self) -> None:
        """
        Take them in if that was not done for a while. Cheap otherwise.
        """
        if self._clock() >= self._due:
            self.look()

    def drops(self) -> Drops:
        """
        What was lost until now.
        """
        self.look()
        return Drops(self.dropped, self.interface)
