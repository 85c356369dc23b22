# See LICENSE for details.
"""
Events to an Amazon SQS queue.

A standard queue promises no order. A FIFO queue does: there each capture is a
message group, and an event that is sent twice arrives once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from pcapdaemon.events import Events
from pcapdaemon.interfaces import StartError
from pcapdaemon.listeners._sqsclient import describe, isAway, locate, makeClient
from pcapdaemon.publishers._publisher import Item, Publisher, PublishError


class SqsPublisher(Publisher):
    """
    Sends to one queue.
    """

    name = "sqs"
    #: As SQS has it, with room for what C{missed} adds: a batch that is too large
    #: would be refused whole, for ever.
    most = 10
    mostBytes = longest = 256 * 1024 - 1024
    apart = patient = True

    def __init__(
        self,
        reactor: Any,
        events: Events,
        url: str,
        inThread: Callable[..., Deferred[Any]],
        *,
        region: str = "",
        accessid: str = "",
        accesskey: str = "",
        endpoint: str = "",
        **common: Any,
    ) -> None:
        """
        @param url: The queue.
        @param inThread: Calls what blocks.
        @param region: Empty for that of the URL, or of the AWS configuration.
        @param accessid: With C{accesskey}; empty for the credential chain of AWS.
        @param endpoint: The service, with or without a scheme; empty for the
            server that the URL names.
        @param common: As with L{Publisher}.
        @raise StartError: A setting makes no sense.
        """
        super().__init__(reactor, events, f"SQS queue {url}", **common)
        if bool(accessid) != bool(accesskey):
            raise StartError("[sqs] accessid and accesskey: give both or neither")
        where = locate(url, region, endpoint, "events")
        self._makeClient = partial(makeClient, *where, accessid, accesskey, 0)
        self._secrets = [secret for secret in (accesskey, accessid) if secret]
        self._url = url
        self._inThread = inThread
        self._client: Any = None

    def disconnect(self) -> None:
        """
        Forget the connections, which a thread may be using.
        """
        self._client = None

    async def send(self, batch: Sequence[Item]) -> None:
        entries = [self._entry(str(n), item) for n, item in enumerate(batch)]
        try:
            answer = await self._inThread(self._call, entries)
        except Exception as error:
            away = isAway(error)
            if not away:
                # A new client looks for credentials again.
                self._client = None
            raise PublishError(describe(error, self._secrets), not away) from None
        for sent in answer.get("Successful", ()):
            batch[int(sent["Id"])].done = True
        why = ""
        for failed in answer.get("Failed", ()):
            why = f"{failed.get('Code')}: {failed.get('Message', '')}"
            if failed.get("SenderFault"):
                batch[int(failed["Id"])].refusal = why
        if not all(item.done or item.refusal for item in batch):
            raise PublishError(why or "the answer does not name all events")

    def _entry(self, id: str, item: Item) -> dict[str, str]:
        entry = {"Id": id, "MessageBody": item.data.decode("ascii")}
        if self._url.endswith(".fifo"):
            entry |= {"MessageGroupId": item.id, "MessageDeduplicationId": item.key}
        return entry

    def _call(self, entries: Sequence[dict[str, str]]) -> dict[str, Any]:
        """
        Called in the thread.
        """
        if self._client is None:
            self._client = self._makeClient()
        answer: dict[str, Any] = self._client.send_message_batch(
            QueueUrl=self._url, Entries=entries
        )
        return answer
