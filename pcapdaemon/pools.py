# See LICENSE for details.
"""
Pools of threads, one for each kind of work, so that none starves another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool


class _DaemonThread(threading.Thread):
    """
    A thread of a pool, which C{top -H} and C{ps -L} show by the name of that.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, daemon=True)

    def run(self) -> None:
        # Fifteen bytes are all that the kernel keeps, and its own of others.
        name = self.name.removeprefix("PoolThread-pcapdaemon.")
        with suppress(OSError), open("/proc/thread-self/comm", "w") as comm:
            comm.write(name)
        super().run()


class Pools(Service):
    """
    The pools of a daemon, by name.
    """

    def __init__(self, reactor: Any, sizes: Mapping[str, int]) -> None:
        """
        @param sizes: The most threads of each.
        """
        self._reactor = reactor
        self._pools = {name: self._make(name, most) for name, most in sizes.items()}

    @staticmethod
    def _make(name: str, threads: int) -> ThreadPool:
        pool = ThreadPool(0, threads, name=f"pcapdaemon.{name}")
        # One that hangs, on a dead file server for instance, must not keep the
        # process from its end.
        pool.threadFactory = _DaemonThread
        return pool

    def calling(self, name: str) -> Callable[..., Deferred[Any]]:
        """
        @return: What calls a function in a pool, and returns a Deferred of its
            result.
        """
        return partial(deferToThreadPool, self._reactor, self._pools[name])

    def startService(self) -> None:
        super().startService()
        for pool in self._pools.values():
            pool.start()

    def stopService(self) -> None:
        """
        End what has nothing to do. Stopping one waits for what it does, and that
        may hang; its threads do not keep the process from its end.
        """
        super().stopService()
        for pool in self._pools.values():
            if not pool.working:
                pool.stop()
