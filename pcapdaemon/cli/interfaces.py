# See LICENSE for details.
"""
C{pcapdaemon interfaces}.
"""

from __future__ import annotations

import json
from typing import Any

import click

_EPILOG = """
\b
Examples:
  pcapdaemon interfaces --config /etc/pcapdaemon.toml
  sudo -u pcapdaemon pcapdaemon interfaces --json
"""


@click.command("interfaces", short_help="Show what can be captured on.", epilog=_EPILOG)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="The configuration whose aliases are shown.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(config: str | None, as_json: bool) -> None:
    """
    Show the devices of this machine as a daemon sees them, and whether this user may
    capture on them.
    """
    from pcapdaemon.capture.interfaces import describe
    from pcapdaemon.config import ConfigError, Settings, load

    try:
        settings = load(config, {}) if config is not None else Settings()
    except ConfigError as error:
        raise click.ClickException("\n".join(error.mistakes)) from None
    aliases: dict[str, list[str]] = {}
    for interface in settings.interfaces:
        for alias in interface.aliases:
            aliases.setdefault(alias, []).append(interface.name)
    found = describe(aliases)
    if as_json:
        click.echo(json.dumps({"interfaces": found}))
    else:
        _show(found)


def _show(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pcapdaemon.cli.text import clean

    console = Console(highlight=False)
    if not console.is_terminal:
        # Lines are cut by nobody where nobody sees them.
        console = Console(highlight=False, width=200)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("device", "aliases", "link type"):
        table.add_column(name, no_wrap=True)
    table.add_column("addresses", overflow="fold")
    table.add_column("up", no_wrap=True)
    table.add_column("capture", overflow="fold")
    for each in found:
        may = each["capture"]
        table.add_row(
            Text(clean(each["name"]), "bold"),
            clean(", ".join(each["aliases"])),
            each.get("linkname", ""),
            clean(" ".join(each["addresses"]), 1000),
            "up" if each["up"] else Text("down", "yellow"),
            Text("yes", "green") if may else Text("no", "red"),
        )
    console.print(table)
    for why in dict.fromkeys(each["why"] for each in found if not each["capture"]):
        console.print(Text(f"no: {clean(why)}", "red"), soft_wrap=True)
