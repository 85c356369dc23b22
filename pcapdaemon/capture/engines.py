# See LICENSE for details.
"""
Which implementation brings the packets.
"""

from __future__ import annotations

from pcapdaemon.capture.libpcap_engine import LIBRARY, LibpcapSystem
from pcapdaemon.capture.pcapy_engine import PcapySystem
from pcapdaemon.interfaces import ICaptureSystem, StartError

#: The finer one of C{[capture] precision}.
NANO = "nano"

#: The names of C{[capture] engine}. What C{auto} takes depends on the machine.
AUTO, LIBPCAP, PCAPY = ENGINES = ("auto", "libpcap", "pcapy")


def makeSystem(engine: str) -> ICaptureSystem:
    """
    @param engine: One of L{ENGINES}; C{auto} takes libpcap where the machine has
        it, and pcapy-ng, which brings its own, where not.
    @raise StartError: There is no libpcap.
    """
    if engine == PCAPY:
        return ICaptureSystem(PcapySystem())
    try:
        return ICaptureSystem(LibpcapSystem())
    except OSError:
        if engine == AUTO:
            return ICaptureSystem(PcapySystem())
        raise StartError(
            f"[capture] engine: {LIBRARY} of 1.10 or newer is not installed"
        ) from None
