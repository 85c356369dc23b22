# See LICENSE for details.
"""
The group of commands.
"""

from __future__ import annotations

from importlib import import_module

import click

from pcapdaemon import __version__


class _Commands(click.Group):
    """
    Commands that are imported when they are called.
    """

    names = ("send", "watch", "check", "interfaces")

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.names:
            return None
        command = import_module(f"pcapdaemon.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=_Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": None,
        "max_content_width": 100,
    },
    epilog="The daemon itself is: twistd -n pcapdaemon --config FILE",
)
@click.version_option(__version__, message="pcapdaemon %(version)s")
def main() -> None:
    """
    Ask daemons for packet captures, and see what becomes of them.

    \b
      pcapdaemon send --to http://127.0.0.1:8477 -i eth0 --packets 100 --follow
      pcapdaemon watch --to redis://redis.example.net/capture
      pcapdaemon check /etc/pcapdaemon.toml
      pcapdaemon interfaces
    """
