# See LICENSE for details.
"""
Options that several commands have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pcapdaemon.cli.address import HTTP, SQS, Address, parse
from pcapdaemon.cli.compose import KEYS

if TYPE_CHECKING:
    from pcapdaemon.cli.bus import Access

#: The options of L{places}.
PLACES = ("to", "events", "token", "token_file", "cafile", "sqs_region")

_F = TypeVar("_F", bound=Callable[..., Any])


class AddressType(click.ParamType[Address]):
    """
    A bus or server.
    """

    name = "URL"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Address:
        if isinstance(value, Address):
            return value
        try:
            return parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Sections(click.Command):
    """
    A command with too many options for one list.
    """

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                heading = SECTIONS.get(param.name or "", "Options")
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


#: Option to its heading, where that is not "Options".
SECTIONS = {
    **dict.fromkeys(PLACES, "Where"),
    **dict.fromkeys((*KEYS, "json_file"), "Request"),
}


def places(what: str) -> Callable[[_F], _F]:
    """
    C{--to} and what belongs to it.

    @param what: What C{--to} says.
    """
    options = [
        click.option(
            "--to",
            type=AddressType(),
            multiple=True,
            metavar="URL",
            envvar="PCAPDAEMON_TO",
            show_envvar=True,
            help=f"{what}: redis://[USER:PASSWORD@]HOST[:PORT]/CHANNEL, "
            "kafka://HOST:PORT[,HOST:PORT]/TOPIC, sqs+https://HOST/ACCOUNT/QUEUE or "
            "http://HOST[:PORT]; with TLS: rediss, kafkas, https. May be repeated.",
        ),
        click.option(
            "--events",
            type=AddressType(),
            multiple=True,
            metavar="URL",
            envvar="PCAPDAEMON_EVENTS",
            show_envvar=True,
            help="Where the daemons publish their events, if that is not "
            "CHANNEL.events of Redis, TOPIC-events of Kafka or the same HTTP server. "
            "With SQS there must be one. May be repeated.",
        ),
        click.option(
            "--token",
            metavar="TOKEN",
            envvar="PCAPDAEMON_TOKEN",
            show_envvar=True,
            help="The bearer token of HTTP servers. Better in the environment or a "
            "file, where no list of processes shows it.",
        ),
        click.option(
            "--token-file",
            type=click.File("r"),
            metavar="FILE",
            help="A file with that token.",
        ),
        click.option(
            "--cafile",
            type=click.Path(exists=True, dir_okay=False),
            metavar="FILE",
            help="Authorities to trust with TLS instead of the system's (PEM).",
        ),
        click.option(
            "--sqs-region",
            metavar="REGION",
            help="The region of a queue whose URL does not tell it. Credentials are "
            "those of the AWS configuration.",
        ),
    ]

    def decorate(function: _F) -> _F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def access(
    token: str | None, token_file: Any, cafile: str | None, sqs_region: str | None
) -> Access:
    """
    What those options come to.
    """
    from pcapdaemon.cli.bus import Access

    if token_file is not None:
        if token is not None and _given("token"):
            raise click.UsageError("--token and --token-file: only one of them")
        token = token_file.read(4096).strip()
    return Access(token or "", cafile or "", sqs_region or "")


def _given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def sources(to: tuple[Address, ...], events: tuple[Address, ...]) -> list[Address]:
    """
    Where events come from.

    @param events: In the place of what is usual for such a bus.
    @raise click.UsageError: That of a queue is not said.
    """
    found = list(events)
    kinds = {each.kind for each in events}
    for address in to:
        if address.kind == SQS and not events:
            raise click.UsageError(
                f"{address.label}: a queue for requests has no events; say with "
                "--events where the daemons publish them"
            )
        usual = address.events()
        # An HTTP server tells of itself alone.
        if usual is not None and (usual.kind == HTTP or usual.kind not in kinds):
            found.append(usual)
    return list(dict.fromkeys(found))
