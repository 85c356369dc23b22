# See LICENSE for details.
"""
Getting the files of captures: complete and verified, or not at all.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from pcapdaemon.cli.address import Address
from pcapdaemon.cli.bus import Access, BusError
from pcapdaemon.cli.tracker import Capture

#: What a daemon calls its files; anything else does not become a path here.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}\.pcap")
_PIECE = 1 << 16


class DownloadError(Exception):
    """
    A file cannot be had; the text says why.
    """


#: Opens a file, to be read.
Opener = Callable[[], Any]


class Downloads:
    """
    Gets files into a directory.
    """

    def __init__(
        self, directory: str, servers: Sequence[Address], access: Access
    ) -> None:
        """
        @param servers: Daemons that may have the files too.
        """
        self._directory = directory
        self._servers = servers
        self._access = access

    def get(self, capture: Capture) -> str | None:
        """
        Get the file of one capture.

        @return: Its path; L{None} where there is none, since there were no
            packets.
        @raise DownloadError: It cannot be had, or not what was told of it.
        """
        if not capture.packets:
            return None
        if not _NAME.fullmatch(capture.filename) or not capture.sha256:
            raise DownloadError("the daemon did not name a file that can be saved")
        path = os.path.join(self._directory, capture.filename)
        complaints = []
        for name, opener in self._ways(capture):
            try:
                with opener() as stream:
                    self._save(stream, path, capture)
                return path
            except DownloadError as error:
                complaints.append(f"{name}: {error}")
        raise DownloadError("; ".join(complaints) or "no sink that can be read here")

    def _ways(self, capture: Capture) -> Iterator[tuple[str, Opener]]:
        """
        Where to look for it, the nearest first.
        """
        for sink, url in capture.places.items():
            parts = urlsplit(url)
            if parts.scheme == "file":
                yield sink, partial(_local, unquote(parts.path))
        for server in self._servers:
            yield server.label, partial(self._served, server, capture.id)
        for sink, url in capture.places.items():
            if sink == "s3":
                yield sink, partial(_object, url)

    @contextmanager
    def _served(self, address: Address, id: str) -> Iterator[Any]:
        from pcapdaemon.cli.bus_http import Server

        server = Server(address, self._access)
        if not re.fullmatch(r"[A-Za-z0-9._-]+", id):
            raise DownloadError("the capture has an odd name")
        try:
            with server.ask("GET", f"/captures/{id}/file") as response:
                if response.status != 200:
                    raise DownloadError(f"status {response.status}")
                yield response
        except BusError as error:
            raise DownloadError(str(error)) from None

    def _save(self, stream: Any, path: str, capture: Capture) -> None:
        """
        Copy it under another name, and give it its own when it is right.
        """
        try:
            os.makedirs(self._directory, exist_ok=True)
            descriptor, partial = tempfile.mkstemp(dir=self._directory, prefix=".")
        except OSError as error:
            raise DownloadError(f"{self._directory}: {error.strerror}") from None
        try:
            with os.fdopen(descriptor, "wb") as file:
                digest = _copy(stream, file, capture.bytes)
                if digest != capture.sha256:
                    raise DownloadError("it is not the file that was captured")
                file.flush()
                os.fsync(file.fileno())
            os.chmod(partial, 0o640)
            os.replace(partial, path)
        except OSError as error:
            raise DownloadError(error.strerror or str(error)) from None
        finally:
            with suppress(FileNotFoundError):
                os.unlink(partial)


def _copy(stream: Any, file: BinaryIO, most: int) -> str:
    """
    @param most: How many bytes it may have.
    @return: Its SHA-256.
    """
    digest, left = hashlib.sha256(), most
    while data := stream.read(_PIECE):
        left -= len(data)
        if left < 0:
            raise DownloadError(f"it has more than the {most} bytes that were told")
        digest.update(data)
        file.write(data)
    return digest.hexdigest()


@contextmanager
def _local(path: str) -> Iterator[BinaryIO]:
    try:
        # Not what somebody else's pipe or device is.
        if not os.path.isfile(path):
            raise DownloadError("not on this machine")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise DownloadError(error.strerror or str(error)) from None


@contextmanager
def _object(url: str) -> Iterator[Any]:
    """
    An object in S3, with the credentials of the AWS configuration.

    @param url: C{s3://BUCKET/KEY}, or as events have it.
    """
    from boto3.session import Session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    parts = urlsplit(url)
    path, endpoint = unquote(parts.path).lstrip("/"), None
    if parts.scheme == "s3":
        bucket, key = parts.netloc, path
    else:
        bucket, _, key = path.partition("/")
        endpoint = f"{parts.scheme}://{parts.netloc}"
    try:
        session: Any = Session()
        client = session.client(
            "s3",
            region_name=session.region_name or "us-east-1",
            endpoint_url=endpoint,
            config=Config(
                connect_timeout=5,
                retries={"total_max_attempts": 3, "mode": "standard"},
                s3={"addressing_style": "path"},
                response_checksum_validation="when_required",
            ),
        )
        try:
            yield client.get_object(Bucket=bucket, Key=key)["Body"]
        finally:
            client.close()
    except (BotoCoreError, ClientError, ValueError) as error:
        raise DownloadError(str(error).partition("\n")[0]) from None


def downloadAll(
    captures: Iterable[Capture], downloads: Downloads
) -> tuple[list[str], list[str]]:
    """
    @return: The paths of what could be had, and sentences for what could not.
    """
    paths, complaints = [], []
    for capture in captures:
        if capture.state != "completed":
            continue
        try:
            path = downloads.get(capture)
        except DownloadError as error:
            complaints.append(f"{capture.node} {capture.interface}: no file: {error}")
        else:
            if path is not None:
                paths.append(path)
    return paths, complaints
