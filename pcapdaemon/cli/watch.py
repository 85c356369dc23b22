# See LICENSE for details.
"""
C{pcapdaemon watch}.
"""

from __future__ import annotations

import json
import queue
import sys
from collections.abc import Mapping
from typing import Any

import click

from pcapdaemon.cli.address import Address
from pcapdaemon.cli.options import Sections, access, places, sources

_EPILOG = """
\b
A queue of SQS is only looked at: its messages stay, and are hidden from other
readers for as long as the queue's visibility time-out says.

\b
Examples:
  pcapdaemon watch --to http://127.0.0.1:8477
  pcapdaemon watch --to redis://redis.example.net/capture --progress
  pcapdaemon watch --events kafka://kafka.example.net:9092/capture-events --json
"""

_COLOURS = {
    "accepted": "yellow",
    "armed": "cyan",
    "progress": "dim",
    "completed": "blue",
    "stored": "green",
    "rejected": "red",
    "failed": "red",
}
#: Fields that a line has in places of their own, or that would make it too long.
_ELSEWHERE = {
    *("event", "time", "node", "id", "request_id", "interface", "alias"),
    *("limits", "sha256", "filename", "link", "ring", "started", "finished"),
    *("customer", "tags"),
}


@click.command("watch", cls=Sections, short_help="Follow all events.", epilog=_EPILOG)
@places("The bus or server to watch")
@click.option("--progress/--no-progress", default=False, help="Progress events too.")
@click.option("--request-id", metavar="ID", default="", help="Only of this request.")
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines.")
@click.option(
    "--count",
    type=click.IntRange(min=1),
    metavar="N",
    help="Leave after so many events.",
)
def command(
    to: tuple[Address, ...],
    events: tuple[Address, ...],
    token: str | None,
    token_file: Any,
    cafile: str | None,
    sqs_region: str | None,
    progress: bool,
    request_id: str,
    as_json: bool,
    count: int | None,
) -> None:
    """
    Follow all events of a bus or server, until Ctrl-C.
    """
    from pcapdaemon.cli.bus import WAITING, BusError, Note, makeSource
    from pcapdaemon.cli.follow import closeAll, openAll
    from pcapdaemon.cli.text import clean

    wanted = sources(to, events)
    if not wanted:
        raise click.UsageError("--to or --events is missing: what shall be watched?")
    way = access(token, token_file, cafile, sqs_region)
    inbox: queue.Queue[Any] = queue.Queue(WAITING)
    try:
        opened = openAll(
            [makeSource(place, way, inbox) for place in wanted], "", progress
        )
    except BusError as error:
        raise click.ClickException(str(error)) from None
    click.echo(
        f"pcapdaemon: watching {', '.join(place.label for place in wanted)}", err=True
    )
    show = _json if as_json else _pretty()
    left = count
    try:
        while left is None or left > 0:
            item = inbox.get()
            if isinstance(item, Note):
                click.echo(f"pcapdaemon: {clean(item.text)}", err=True)
                continue
            if request_id and item.get("request_id") != request_id:
                continue
            if item["event"] == "progress" and not progress:
                continue
            show(item)
            left = None if left is None else left - 1
    except KeyboardInterrupt:
        pass
    finally:
        closeAll(opened)


def _json(event: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(event, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def _pretty() -> Any:
    """
    What shows events to people.
    """
    from rich.console import Console
    from rich.text import Text

    from pcapdaemon.cli.text import clean

    console = Console(highlight=False)

    def show(event: Mapping[str, Any]) -> None:
        kind = clean(event["event"], 20)
        time = clean(str(event.get("time", "")), 40).partition("T")[2][:12]
        line = Text.assemble(
            (f"{time} ", "dim"),
            (f"{kind:<9} ", _COLOURS.get(kind, "")),
            (clean(event["node"], 80), "bold"),
        )
        interface = event.get("interface")
        if isinstance(interface, str):
            alias = event.get("alias")
            named = f" ({clean(alias, 40)})" if isinstance(alias, str) else ""
            line.append(f" {clean(interface, 40)}{named}")
        line.append(f" {clean(event['id'], 40)}", "dim")
        for name, value in event.items():
            if name not in _ELSEWHERE:
                shown = value if isinstance(value, str) else json.dumps(value)
                line.append(f"  {clean(name, 40)} ", "dim")
                line.append(clean(shown, 200))
        console.print(line, soft_wrap=True)

    return show
