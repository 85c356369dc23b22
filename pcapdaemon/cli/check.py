# See LICENSE for details.
"""
C{pcapdaemon check}.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import attrs
import click

from pcapdaemon.cli.compose import LARGEST

if TYPE_CHECKING:
    from pcapdaemon.cli.filters import Cost
    from pcapdaemon.config import Settings
    from pcapdaemon.request import CaptureRequest

_EPILOG = """
\b
A file whose name ends with .toml is a configuration, any other a request.

\b
Exit status:
  0    there is no mistake
  1    there is one, and it is named
  2    the command is wrong

\b
Examples:
  pcapdaemon check /etc/pcapdaemon.toml
  pcapdaemon check request.json --config /etc/pcapdaemon.toml
  pcapdaemon send -i eth0 -f "port 53" --dry-run | pcapdaemon check -
"""


@click.command(
    "check", short_help="Check a configuration or a request.", epilog=_EPILOG
)
@click.argument("file", type=click.Path(allow_dash=True, dir_okay=False))
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="With a request: the configuration to go by, instead of the defaults.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(file: str, config: str | None, as_json: bool) -> None:
    """
    Name all mistakes of FILE, a configuration (.toml) or a request (JSON, - for
    standard input), and explain a request: what it comes to, and what its filter costs.
    """
    if file.endswith(".toml"):
        if config is not None:
            raise click.UsageError("--config is for a request; FILE is a configuration")
        _configuration(file, as_json)
    else:
        _request(file, config, as_json)


def _settings(path: str | None) -> tuple[Settings | None, list[str]]:
    """
    A configuration, or its mistakes.
    """
    from pcapdaemon.config import ConfigError, Settings, load

    if path is None:
        return Settings(), []
    try:
        return load(path, {}), []
    except ConfigError as error:
        return None, error.mistakes


def _configuration(path: str, asJson: bool) -> None:
    settings, mistakes = _settings(path)
    told: dict[str, Any] = {"file": path, "ok": not mistakes, "mistakes": mistakes}
    if settings is not None:
        told["listeners"] = [
            name
            for name in ("http", "redis", "kafka", "sqs")
            if getattr(settings, name).listen
        ]
        told["sinks"] = [
            name
            for name, on in (
                ("local", settings.general.writelocal),
                ("cloudshark", settings.cloudshark.upload),
                ("s3", settings.s3.upload),
            )
            if on
        ]
        told["interfaces"] = {
            each.name: list(each.aliases) for each in settings.interfaces
        }
    if asJson:
        click.echo(json.dumps(told))
    elif mistakes:
        for mistake in mistakes:
            click.echo(mistake, err=True)
    else:
        click.echo(f"{path}: ok")
        click.echo(f"  requests by  {', '.join(told['listeners'])}")
        click.echo(f"  captures to  {', '.join(told['sinks'])}")
        for name, aliases in told["interfaces"].items():
            click.echo(f"  interface    {name}: {', '.join(aliases) or 'no alias'}")
    sys.exit(1 if mistakes else 0)


def _request(path: str, config: str | None, asJson: bool) -> None:
    from pcapdaemon.interfaces import Refused
    from pcapdaemon.request import decode

    settings, mistakes = _settings(config)
    if settings is None:
        for mistake in mistakes:
            click.echo(mistake, err=True)
        sys.exit(1)
    try:
        with click.open_file(path, "rb") as stream:
            data = stream.read(LARGEST)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
    told: dict[str, Any] = {"file": path}
    cost = None
    try:
        fields = decode(data)
    except Refused as refused:
        found = [(refused.reason, refused.detail)]
    else:
        request, found = _examine(fields, settings)
        most = settings.general.maxmessage
        if len(data) > most:
            found.append(("too-large", f"the message has {len(data)} bytes of {most}"))
        if request is not None:
            told |= _explained(request, settings, config)
            cost = _cost(request, settings, told, found)
    told["mistakes"] = [{"reason": r, "detail": d} for r, d in found]
    told["ok"] = not found
    if asJson:
        click.echo(json.dumps(told))
    else:
        _show(path, told, cost, config)
    sys.exit(1 if found else 0)


def _examine(
    fields: dict[str, Any], settings: Settings
) -> tuple[CaptureRequest | None, list[tuple[str, str]]]:
    """
    Look at each key for itself, with the daemon's own code, which stops at the
    first mistake.

    @return: The request, where there is no mistake in its form; and all mistakes.
    """
    from pcapdaemon.interfaces import Reason, Refused
    from pcapdaemon.meaning import limits
    from pcapdaemon.plan import check
    from pcapdaemon.request import parse

    bounds = limits(settings)
    found: list[tuple[str, str]] = []
    for key, value in fields.items():
        alone = {"node": "any", "interface": ["any"], key: value}
        if key in ("nodere", "alias"):
            del alone["node" if key == "nodere" else "interface"]
        try:
            check(parse(alone), bounds)
        except Refused as refused:
            found.append((refused.reason, refused.detail))
    try:
        request = parse(fields)
    except Refused as refused:
        if (refused.reason, refused.detail) not in found:
            found.append((refused.reason, refused.detail))
        return None, found
    known = {alias for each in settings.interfaces for alias in each.aliases}
    missing = [alias for alias in request.aliases if alias not in known]
    if known and len(missing) == len(request.aliases) and missing:
        detail = f"alias {', '.join(missing)}: not configured; there are: "
        found.append((Reason.UNKNOWN_ALIAS, detail + ", ".join(sorted(known))))
    return request, found


def _explained(
    request: CaptureRequest, settings: Settings, config: str | None
) -> dict[str, Any]:
    """
    What a request comes to.
    """
    from pcapdaemon.meaning import limits
    from pcapdaemon.plan import makePlan

    plan = makePlan(request, "", "", "", limits(settings), "", "", 0)
    asked = attrs.asdict(request)
    return {
        "nodes": request.node or f"whose name has {request.nodere}",
        "devices": [
            *request.interfaces,
            *(f"alias {each}" for each in request.aliases),
        ],
        "limits": {
            key: {
                "value": getattr(plan, attribute),
                "default": asked[attribute] is None,
            }
            for key, attribute in (
                ("packets", "packets"),
                ("bytes", "size"),
                ("timeout", "timeout"),
                ("duration", "duration"),
                ("snap", "snaplength"),
            )
        },
        "ignored": list(request.ignored),
    }


def _cost(
    request: CaptureRequest,
    settings: Settings,
    told: dict[str, Any],
    found: list[tuple[str, str]],
) -> Cost | None:
    """
    What the filter costs, and what is wrong with it.
    """
    from pcapdaemon.cli.filters import LINKS, cost
    from pcapdaemon.interfaces import Reason

    if not request.filter:
        return None
    try:
        priced = cost(request.filter, told["limits"]["snap"]["value"])
    except OSError as error:
        raise click.ClickException(f"bpf cannot be checked here: {error}") from None
    if priced.reason:
        found.append((priced.reason, f"bpf: {priced.words}"))
    elif priced.names and not settings.capture.resolve:
        names = ", ".join(priced.names)
        detail = f"bpf names {names}, which needs [capture] resolve = true"
        found.append((Reason.BAD_FILTER, detail))
    told["filter"] = {
        "bpf": request.filter,
        "seconds": priced.seconds,
        "instructions": priced.instructions,
        "names": list(priced.names),
        "link": LINKS[priced.link],
        "reason": priced.reason,
        "detail": priced.words,
    }
    return priced


def _show(
    path: str, told: dict[str, Any], cost: Cost | None, config: str | None
) -> None:
    """
    For people.
    """
    from pcapdaemon.cli.text import clean, size, span

    for mistake in told["mistakes"]:
        click.echo(f"{path}: {mistake['reason']}: {clean(mistake['detail'])}", err=True)
    if told["ok"]:
        click.echo(f"{path}: ok")
    if "limits" not in told:
        return
    rows = [
        ("nodes", clean(told["nodes"])),
        ("devices", clean(", ".join(told["devices"]))),
    ]
    shown = {"bytes": size, "snap": size, "timeout": span, "duration": span}
    words = {
        "packets": "ends after",
        "bytes": "or at",
        "timeout": "or idle for",
        "duration": "or after",
        "snap": "keeps",
    }
    for key, limit in told["limits"].items():
        text = shown.get(key, lambda value: f"{value:,} packets")(limit["value"])
        if key == "snap":
            text += " of each packet"
        if limit["default"]:
            text += f"  (default of {config})" if config else "  (default)"
        rows.append((words[key], text))
    if told["ignored"]:
        rows.append(("ignored", clean(", ".join(told["ignored"]))))
    if cost is None:
        rows.append(("filter", "none: all packets"))
    elif not cost.reason:
        rows.append(("filter", clean(told["filter"]["bpf"], 2000)))
        if cost.words:
            rows.append(("", cost.words))
        else:
            text = f"{cost.instructions} BPF instructions for {told['filter']['link']}"
            rows.append(("", f"{text}, compiled in {cost.seconds * 1e6:,.0f} µs"))
        rows.append(("", f"host names: {', '.join(cost.names) or 'none'}"))
    for name, text in rows:
        click.echo(f"  {name:<12} {text}")
