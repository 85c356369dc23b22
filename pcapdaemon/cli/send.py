# See LICENSE for details.
"""
C{pcapdaemon send}.
"""

from __future__ import annotations

import queue
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from pcapdaemon.cli.address import HTTP, Address
from pcapdaemon.cli.compose import KEYS, compose, encode, keys
from pcapdaemon.cli.options import Sections, access, places, sources

if TYPE_CHECKING:
    from pcapdaemon.cli.bus import Access
    from pcapdaemon.cli.display import View
    from pcapdaemon.cli.follow import Follow, Patience
    from pcapdaemon.cli.tracker import Tracker

_EPILOG = """
\b
Exit status:
  0    every capture is completed and stored; without --follow: it is sent
  1    something was refused, failed, was lost, or did not end in time
  2    the command or the request is wrong; nothing was sent
  3    nobody answered; without --follow: Redis or a server says nobody takes it
  130  left with Ctrl-C

\b
Examples:
  pcapdaemon send --to http://127.0.0.1:8477 -i eth0 -f "port 53" --packets 100
  pcapdaemon send --to redis://redis.example.net/capture --nodere ^web -a public \\
      --duration 60 --follow --download ./pcaps
  export PCAPDAEMON_TO=kafka://kafka.example.net:9092/capture
  pcapdaemon send -i any --timeout 5 --expect 3 --json | jq .event
  pcapdaemon send --json-file request.json --follow
"""


@click.command(
    "send",
    cls=Sections,
    short_help="Ask for captures, and follow them.",
    epilog=_EPILOG,
)
@places("Where to send it")
@keys
@click.option("--check/--no-check", default=True, help="Check the filter first.")
@click.option("--dry-run", is_flag=True, help="Print the request; send nothing.")
@click.option("--follow", is_flag=True, help="Show what becomes of it, to the end.")
@click.option(
    "--json", "as_json", is_flag=True, help="Follow; print events as JSON lines."
)
@click.option(
    "--download",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Follow; get the files here, where a sink or server can be read.",
)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="In what time nodes answer.",
)
@click.option(
    "--expect",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="How many nodes will answer: do not wait when they have, complain when not.",
)
@click.option(
    "--give-up",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Follow no longer than this; else 300 s longer than the captures may last.",
)
def command(
    to: tuple[Address, ...],
    events: tuple[Address, ...],
    token: str | None,
    token_file: Any,
    cafile: str | None,
    sqs_region: str | None,
    check: bool,
    dry_run: bool,
    follow: bool,
    as_json: bool,
    download: str | None,
    wait: float,
    expect: int,
    give_up: float | None,
    json_file: Any,
    **given: Any,
) -> None:
    """
    Send a request for captures to daemons, and follow it.

    The request is checked as a daemon does before it is sent. With --follow, there is
    a row for each node and device, with a bar for the nearest of its four limits.
    """
    fields = compose({key: given[key] for key in KEYS}, json_file)
    _validate(fields, check)
    if dry_run:
        click.echo(encode(fields))
        return
    if not to:
        raise click.UsageError("--to is missing: where shall the request go?")
    way = access(token, token_file, cafile, sqs_region)
    if not (follow or as_json or download):
        sys.exit(_sendOnly(fields, to, way))
    from pcapdaemon.cli.follow import Patience

    patience = Patience(wait, expect, give_up)
    _follow(fields, to, sources(to, events), way, patience, as_json, download)


def _validate(fields: dict[str, Any], deep: bool) -> None:
    """
    Check a request with the daemon's own code.

    @param deep: The filter too.
    @raise click.UsageError: It is wrong.
    """
    from pcapdaemon.events import isEvent
    from pcapdaemon.interfaces import Refused
    from pcapdaemon.request import MAXSNAPLENGTH, decode, parse

    try:
        request = parse(fields)
        # Keys that are ignored have to be JSON, too.
        decode(encode(fields))
    except Refused as refused:
        raise click.UsageError(refused.detail) from None
    if isEvent(fields):
        raise click.UsageError("this is an event, which no daemon takes for a request")
    if request.ignored:
        known = f"daemons ignore {', '.join(request.ignored)}: no key of a request"
        click.echo(f"pcapdaemon: {known}", err=True)
    if not deep or not request.filter:
        return
    from pcapdaemon.cli.filters import cost

    try:
        found = cost(request.filter, request.snaplength or MAXSNAPLENGTH)
    except OSError as error:
        raise click.ClickException(
            f"bpf cannot be checked here ({error}); --no-check leaves it to the daemons"
        ) from None
    if found.reason:
        raise click.UsageError(f"bpf: {found.reason}: {found.words}")
    if found.words:
        click.echo(f"pcapdaemon: bpf: {found.words}", err=True)
    if found.names:
        names = ", ".join(found.names)
        told = f"bpf names {names}: daemons without [capture] resolve = true refuse it"
        click.echo(f"pcapdaemon: {told}", err=True)


def _sendOnly(fields: dict[str, Any], to: tuple[Address, ...], way: Access) -> int:
    """
    Send, and say no more than what the bus says at once.

    @return: The exit status.
    """
    from pcapdaemon.cli.bus import BusError, makeSender
    from pcapdaemon.cli.text import clean, plural
    from pcapdaemon.cli.tracker import DONE, FAILED, NOBODY

    status, message = [], encode(fields)
    for address in to:
        try:
            receipt = makeSender(address, way).publish(message)
        except BusError as error:
            click.echo(f"pcapdaemon: {clean(str(error))}", err=True)
            status.append(FAILED)
            continue
        said = "sent"
        if receipt.foreign:
            status.append(NOBODY)
            said = f"the request is not for {clean(receipt.node)}"
        elif receipt.reason:
            status.append(FAILED)
            said = f"refused ({clean(receipt.reason)}): {clean(receipt.detail)}"
        elif receipt.ids:
            status.append(DONE)
            ids = ", ".join(clean(id) for id in receipt.ids)
            said = f"{clean(receipt.node)} takes it as {ids}"
        elif receipt.heard is not None:
            status.append(DONE if receipt.heard else NOBODY)
            said = f"sent, {plural(receipt.heard, 'subscriber')}"
        else:
            status.append(DONE)
        click.echo(f"{address.label}: {said}", err=status[-1] != DONE)
    click.echo(f"request_id: {clean(fields['request_id'])}")
    if FAILED in status:
        return FAILED
    return NOBODY if NOBODY in status and DONE not in status else DONE


def _follow(
    fields: dict[str, Any],
    to: tuple[Address, ...],
    places: list[Address],
    way: Access,
    patience: Patience,
    asJson: bool,
    directory: str | None,
) -> None:
    from pcapdaemon.cli.bus import WAITING, BusError, makeSender, makeSource
    from pcapdaemon.cli.display import makeView
    from pcapdaemon.cli.follow import Follow, closeAll, openAll
    from pcapdaemon.cli.tracker import Tracker

    inbox: queue.Queue[Any] = queue.Queue(WAITING)
    requestId = fields["request_id"]
    tracker = Tracker(requestId, monotonic)
    view = makeView(tracker, sys.stdout, sys.stderr, asJson)
    try:
        opened = openAll(
            [makeSource(place, way, inbox) for place in places], requestId, True
        )
    except BusError as error:
        raise click.ClickException(str(error)) from None
    try:
        following = Follow(tracker, view, inbox, patience)
        with view:
            following.send((makeSender(address, way) for address in to), encode(fields))
            _run(following, view, tracker)
        status, said = following.outcome()
        if directory is not None:
            failed, told = _download(tracker, directory, [*to, *places], way)
            status = status or int(failed)
            said += told
        view.summary(said)
    finally:
        closeAll(opened)
    sys.exit(status)


def _run(following: Follow, view: View, tracker: Tracker) -> None:
    """
    Follow to the end. The first Ctrl-C asks what to do, the second leaves.
    """
    from pcapdaemon.cli.tracker import LEFT

    asked = False
    while True:
        try:
            following.run()
            return
        except KeyboardInterrupt:
            running = len(tracker.running)
            if asked or not sys.stdin.isatty():
                view.note(f"left; {running} captures run on" if running else "left")
                sys.exit(LEFT)
            asked = True
            view.pause()
            try:
                wanted = click.confirm(
                    f"\nCancel the running captures ({running})?", err=True
                )
            except click.Abort:
                sys.exit(LEFT)
            view.resume()
            if wanted:
                following.cancel()


def _download(
    tracker: Tracker, directory: str, places: list[Address], way: Access
) -> tuple[bool, list[str]]:
    """
    @return: Whether something could not be had, and what there is to say.
    """
    from pcapdaemon.cli.download import Downloads, downloadAll
    from pcapdaemon.cli.text import plural

    servers = list(dict.fromkeys(each for each in places if each.kind == HTTP))
    downloads = Downloads(directory, servers, way)
    paths, complaints = downloadAll(tracker.captures.values(), downloads)
    got = [f"{plural(len(paths), 'file')} in {directory}"] if paths else []
    return bool(complaints), [*got, *complaints]
