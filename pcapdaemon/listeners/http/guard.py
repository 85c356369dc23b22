# See LICENSE for details.
"""
Who may talk to the HTTP listener.
"""

from __future__ import annotations

import hmac
import re
from http import HTTPStatus
from ipaddress import ip_address

import attrs

from twisted.web.http_headers import Headers

from pcapdaemon.listeners.http.reply import Reply, problem, unauthorized

_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{0,5})?")


def isLoopback(host: str) -> bool:
    """
    Whether a host, given as an address or a name, surely is this very machine.
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _texts(headers: Headers, name: bytes) -> list[str]:
    """
    Every value of a header, whatever bytes it has.
    """
    return [value.decode("latin-1") for value in headers.getRawHeaders(name, [])]


@attrs.frozen
class Guard:
    """
    The rules that a request must meet before anything else is done with it.

    @ivar token: What the bearer must know; empty if nothing.
    @ivar loopback: Whether only this machine can connect. Then a foreign name in
        C{Host} betrays a page in somebody's browser that had its own name point
        here (DNS rebinding).
    """

    token: bytes = attrs.field(repr=False)
    loopback: bool

    def refusal(self, headers: Headers, public: bool) -> Reply | None:
        """
        Look at a request's headers.

        @param public: Whether what is asked for needs no token.
        @return: What to answer instead, or L{None} where it may pass.
        """
        hosts = _texts(headers, b"Host")
        if self.loopback and not (len(hosts) == 1 and self._isLocal(hosts[0])):
            return problem(
                HTTPStatus.FORBIDDEN,
                "forbidden",
                "Host: must name this machine, as in localhost or 127.0.0.1",
            )
        if self._isForeign(headers, hosts[0] if hosts else "", public):
            return problem(
                HTTPStatus.FORBIDDEN,
                "forbidden",
                "Origin: requests of other sites' pages are not served",
            )
        if public or not self.token or self._knowsToken(headers):
            return None
        return unauthorized("Authorization: must be Bearer and the token")

    @staticmethod
    def _isLocal(authority: str) -> bool:
        match = _AUTHORITY.fullmatch(authority)
        return match is not None and isLoopback(match[1] or match[2])

    @staticmethod
    def _isForeign(headers: Headers, host: str, public: bool) -> bool:
        if any(
            origin.partition("://")[2].lower() != host.lower()
            for origin in _texts(headers, b"Origin")
        ):
            return True
        modes = _texts(headers, b"Sec-Fetch-Mode"), _texts(headers, b"Sec-Fetch-Dest")
        if public and modes == (["navigate"], ["document"]):
            # A link elsewhere that leads here: nobody but the reader sees it.
            return False
        # Also "same-site": another port of this machine is somebody else's.
        sites = _texts(headers, b"Sec-Fetch-Site")
        return any(site.lower() not in ("same-origin", "none") for site in sites)

    def _knowsToken(self, headers: Headers) -> bool:
        given = headers.getRawHeaders(b"Authorization", [])
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(
            token.strip(), self.token
        )
