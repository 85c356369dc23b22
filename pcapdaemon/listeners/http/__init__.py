# See LICENSE for details.
"""
Requests that come by HTTP, and a look at what the daemon does.
"""

from __future__ import annotations

from pcapdaemon.listeners.http.feed import Feed
from pcapdaemon.listeners.http.listener import HttpListener
from pcapdaemon.listeners.http.routes import Served

__all__ = ["Feed", "HttpListener", "Served"]
