# See LICENSE for details.
"""
The command line, and the daemon made of it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from twisted.application.service import IService
from twisted.python import usage

from pcapdaemon import __version__
from pcapdaemon.config import OPTIONS, ConfigError, Settings, load
from pcapdaemon.log import jsonLogger


class Options(usage.Options):
    """
    The options of C{twistd pcapdaemon}.

    @ivar settings: What they and the configuration file come to.
    """

    synopsis = "[options]"
    longdesc = (
        "Captures packets when a message asks for them. An option wins over the "
        "configuration file. Without a file: HTTP requests on 127.0.0.1:8477, "
        "and captures in ./captures."
    )

    optParameters = [
        ["config", None, None, "Configuration file (TOML)."],
        ["destdir", None, None, "Directory for captures written locally."],
        ["maxpackets", None, None, "The most packets of a capture."],
        ["redisnode", None, None, "Redis server; switches Redis on."],
        ["redisport", None, None, "Port of the Redis server; switches Redis on."],
        ["redischannel", None, None, "Redis channel; switches Redis on."],
        ["cshost", None, None, "CloudShark server."],
        ["csscheme", None, None, "CloudShark scheme: http or https."],
        ["csport", None, None, "CloudShark port."],
        ["cstoken", None, None, "CloudShark API token."],
        ["cstimeout", None, None, "Seconds that an upload may take; 0: no limit."],
    ]

    optFlags = [
        ["writelocal", None, "Write captures to the local directory."],
        ["upload", None, "Upload captures to CloudShark."],
        ["panic", None, "Fail a capture on a packet that cannot be decoded."],
        ["jsonlog", None, "Write twistd's log as one JSON object a line."],
        ["check", None, "Check the configuration, say what is wrong, and exit."],
    ]

    settings: Settings

    def opt_version(self) -> None:
        """
        Print the version and exit.
        """
        print(f"pcapdaemon {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """
        Read the configuration; exit at once where it is wrong.
        """
        try:
            self.settings = self.load()
        except ConfigError as error:
            print(*error.mistakes, sep="\n", file=sys.stderr)
            raise SystemExit(1) from None
        if self["check"]:
            print(f"{self['config'] or 'without a file'}: ok")
            raise SystemExit(0)
        if self["jsonlog"] and self.parent is not None:
            _logJSON(self.parent)

    def load(self) -> Settings:
        """
        Read the configuration, now or again.

        @raise ConfigError: It is wrong.
        """
        return load(self["config"], self.overrides())

    def overrides(self) -> dict[tuple[str, str], Any]:
        """
        Return what was given on the command line, by section and key.
        """
        # A flag is 0 or 1 here, and true in a file.
        return {
            at: True if self[name] == 1 else self[name]
            for name, at in OPTIONS.items()
            if self[name] not in (None, 0)
        }


def _logJSON(server: Any) -> None:
    """
    Give twistd our log observer.

    Up to the end of C{postOptions}, twistd takes its C{logger} for a name to
    import; after it, for the factory.
    """
    postOptions = server.postOptions

    def finish() -> None:
        postOptions()
        server["logger"] = lambda: jsonLogger(server)

    server.postOptions = finish


def makeService(options: Options) -> IService:
    """
    Make the daemon.
    """
    from twisted.internet import reactor

    from pcapdaemon.program import Program

    if options["config"] is not None:
        # twistd may change the directory before SIGHUP comes.
        options["config"] = os.path.abspath(options["config"])
    twistd = options.parent
    detached = twistd is not None and not twistd["nodaemon"]
    return Program(reactor, options.settings, options.load, detached)
