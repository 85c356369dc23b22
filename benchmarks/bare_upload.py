# See LICENSE for details.
"""
The plain libraries, treq and boto3, and nothing else, for figures to compare with.
Uploads a file once, and prints how many seconds that took::

    python -m benchmarks.bare_upload FUNCTION '{"file": ..., ...}'
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, cast

KIND = "application/vnd.tcpdump.pcap"


def cloudshark(file: str, url: str, cafile: str) -> None:
    """
    Upload a file to CloudShark with treq.

    @param url: With the token.
    """
    import treq

    from twisted.internet.ssl import Certificate, trustRootFromCertificates
    from twisted.internet.task import react
    from twisted.web.client import Agent, BrowserLikePolicyForHTTPS

    roots = trustRootFromCertificates([Certificate.loadPEM(Path(cafile).read_bytes())])

    async def upload(reactor: Any) -> None:
        client = treq.client.HTTPClient(
            Agent(reactor, BrowserLikePolicyForHTTPS(roots))
        )
        with open(file, "rb") as stream:
            started = time.perf_counter()
            response = await client.post(
                url,
                data={"additional_tags": "plain"},
                # Its type speaks of producers only; its documentation of files.
                files={"file": ("plain.pcap", KIND, cast(Any, stream))},
            )
            await response.json()
            print(time.perf_counter() - started)

    react(upload)


def _client(s3: dict[str, str]) -> Any:
    from boto3.session import Session
    from botocore.config import Config

    return Session(s3["accessid"], s3["accesskey"], region_name="us-east-1").client(
        "s3",
        endpoint_url=s3["endpoint"],
        verify=s3["cafile"],
        config=Config(s3={"addressing_style": "path"}),
    )


def putObject(file: str, s3: dict[str, str]) -> None:
    """
    Upload a file to S3 by one request.
    """
    client = _client(s3)
    with open(file, "rb") as stream:
        started = time.perf_counter()
        client.put_object(
            Bucket=s3["bucket"], Key="plain.pcap", Body=stream, ContentType=KIND
        )
        print(time.perf_counter() - started)


def uploadFile(file: str, s3: dict[str, str]) -> None:
    """
    Upload a file to S3 in parts, several at once.
    """
    client = _client(s3)
    started = time.perf_counter()
    client.upload_file(file, s3["bucket"], "plain.pcap", {"ContentType": KIND})
    print(time.perf_counter() - started)


_TASKS = {each.__name__: each for each in (cloudshark, putObject, uploadFile)}


if __name__ == "__main__":
    _TASKS[sys.argv[1]](**json.loads(sys.argv[2]))
