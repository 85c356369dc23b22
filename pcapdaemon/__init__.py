# See LICENSE for details.
"""
Packets of an incident, captured when an event asks for them.
"""

__version__ = "0.1.0"
