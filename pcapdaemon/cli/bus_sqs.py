# See LICENSE for details.
"""
Amazon SQS by boto3.
"""

from __future__ import annotations

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from pcapdaemon.cli.address import Address
from pcapdaemon.cli.bus import PAUSE, Access, BusError, Receipt, Sender, Source
from pcapdaemon.interfaces import StartError
from pcapdaemon.listeners._sqsclient import describe, locate, makeClient

#: Seconds of one poll. Closing waits for it: what comes of it is given back, which
#: else would be hidden from others for a while.
_POLL = 1
#: Seconds for which an event of somebody else's request stays hidden.
_FOREIGN = 1


def _client(address: Address, access: Access) -> Any:
    try:
        return makeClient(*locate(address.name, access.region), "", "", _POLL)
    except (BotoCoreError, StartError, ValueError) as error:
        raise BusError(f"{address.label}: {describe(error)}") from None


def _call(address: Address, method: Any, **arguments: Any) -> Any:
    """
    @raise BusError: It did not work.
    """
    try:
        return method(QueueUrl=address.name, **arguments)
    except (BotoCoreError, ClientError) as error:
        raise BusError(f"{address.label}: {describe(error)}") from None


class SqsSender(Sender):
    """
    Sends to a queue.
    """

    def publish(self, message: bytes) -> Receipt:
        client = _client(self.address, self.access)
        try:
            _call(self.address, client.send_message, MessageBody=message.decode())
        finally:
            client.close()
        return Receipt()


class SqsSource(Source):
    """
    Polls a queue. With a request its events are deleted, and all others given
    back; without one nothing is deleted.
    """

    def open(self, requestId: str, progress: bool) -> None:
        self._requestId = requestId
        self._client = _client(self.address, self.access)
        # Whatever is sent to a queue is kept: there only must be one.
        _call(
            self.address,
            self._client.get_queue_attributes,
            AttributeNames=["QueueArn"],
        )
        self.run()

    def close(self) -> None:
        super().close()
        self.thread.join(_POLL * 2)

    def read(self) -> None:
        said = ""
        while not self.closing.is_set():
            try:
                answer = _call(
                    self.address,
                    self._client.receive_message,
                    MaxNumberOfMessages=10,
                    WaitTimeSeconds=_POLL,
                )
                for message in answer.get("Messages", ()):
                    if self.closing.is_set():
                        self._giveBack(message, 0)
                    else:
                        self._look(message)
                said = ""
            except BusError as error:
                text = str(error).removeprefix(f"{self.address.label}: ")
                if text != said:
                    self.note(f"{text}; trying on")
                said = text
                self.closing.wait(PAUSE)
        self._client.close()

    def _look(self, message: dict[str, Any]) -> None:
        handle = message["ReceiptHandle"]
        event = self.deliver(message["Body"])
        if not self._requestId:
            return
        if event is not None and event.get("request_id") == self._requestId:
            _call(self.address, self._client.delete_message, ReceiptHandle=handle)
        else:
            self._giveBack(message, _FOREIGN)

    def _giveBack(self, message: dict[str, Any], seconds: int) -> None:
        _call(
            self.address,
            self._client.change_message_visibility,
            ReceiptHandle=message["ReceiptHandle"],
            VisibilityTimeout=seconds,
        )
