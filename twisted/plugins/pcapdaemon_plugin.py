# See LICENSE for details.
"""
Makes C{twistd pcapdaemon} known.
"""

from twisted.application.service import ServiceMaker

pcapdaemon = ServiceMaker(
    "Packet capture daemon",
    "pcapdaemon.tap",
    "Captures packets when a message asks for them.",
    "pcapdaemon",
)
