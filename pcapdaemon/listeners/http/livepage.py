# See LICENSE for details.
# mypy: allow-untyped-calls
"""
The live page: files that anybody may have, for all that they show is asked for
with the token.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files

from twisted.web.resource import Resource

from pcapdaemon.listeners.http.reply import Content
from pcapdaemon.listeners.http.resource import ApiResource, NotFound
from pcapdaemon.listeners.http.site import ApiRequest

#: The content types of what the page is made of, by the ends of their names.
KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

#: Nothing but the page's own files may be loaded or run, nothing may be asked but
#: this daemon, no text can become markup, and no other page can hold this one.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

HEADERS = {
    # Kept by browsers, but asked for each time: most answers are "not modified".
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


class PageFile(ApiResource):
    """
    One file of the page.
    """

    public = True

    def __init__(self, body: bytes, kind: str) -> None:
        """
        @param kind: Its content type.
        """
        super().__init__()
        etag = hashlib.sha256(body).hexdigest()[:32]
        self._content = Content(body, kind, HEADERS, etag)

    def render_GET(self, request: ApiRequest) -> Content:
        """
        The file.
        """
        return self._content


class _Folder(NotFound):
    """
    C{/page}: nothing itself, but what is in it is there.
    """

    isLeaf = False


def addPage(root: Resource) -> None:
    """
    Put the page at C{/}, and the files that it asks for at C{/page/NAME}. They are
    read once, here: a request never gets to a file system.

    @param root: What all routes are below.
    """
    folder = _Folder()
    for file in files("pcapdaemon.listeners.http").joinpath("page").iterdir():
        kind = KINDS.get(file.name.rpartition(".")[2])
        if kind is None:
            continue
        resource = PageFile(file.read_bytes(), kind)
        if file.name == "index.html":
            root.putChild(b"", resource)
        else:
            folder.putChild(file.name.encode("ascii"), resource)
    root.putChild(b"page", folder)
