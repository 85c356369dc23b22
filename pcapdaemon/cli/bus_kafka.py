# See LICENSE for details.
"""
Kafka, by the daemon's own reader of topics and its own producer.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

from kafka.errors import KafkaTimeoutError

from pcapdaemon.cli.address import Address
from pcapdaemon.cli.bus import (
    LARGEST,
    PATIENCE,
    Access,
    BusError,
    Receipt,
    Sender,
    Source,
)
from pcapdaemon.listeners._kafka_reader import Reader, connect
from pcapdaemon.listeners._kafka_records import Damage
from pcapdaemon.publishers.kafka import Failed, Producer


def _settings(address: Address, access: Access) -> dict[str, Any]:
    """
    Servers and security, as kafka-python calls them.
    """
    security = ("SASL_" if address.password else "") + (
        "SSL" if address.tls else "PLAINTEXT"
    )
    settings: dict[str, Any] = {
        "bootstrap_servers": [
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            for host, port in address.servers
        ],
        "security_protocol": security,
    }
    if address.tls:
        settings["ssl_context"] = access.context()
    if address.password:
        settings["sasl_mechanism"] = address.mechanism
        settings["sasl_plain_username"] = address.username
        settings["sasl_plain_password"] = address.password
    return settings


def _hidden(address: Address, text: str) -> str:
    return text.replace(address.password, "***") if address.password else text


class KafkaSender(Sender):
    """
    Publishes to a topic.
    """

    def publish(self, message: bytes) -> Receipt:
        producer = Producer(_settings(self.address, self.access), self.address.name)
        try:
            [why] = producer.send([(b"", message)])
        except Failed as failed:
            why = _hidden(self.address, str(failed.why) or repr(failed.why))
            if isinstance(failed.why, KafkaTimeoutError):
                why = "no answer, or there is no such topic"
        finally:
            producer.close()
        if why is not None:
            raise BusError(f"{self.address.label}: {why}")
        return Receipt()


class KafkaSource(Source):
    """
    Reads a topic from its end, in no consumer group. It is what the daemon's
    reader reports to.
    """

    def open(self, requestId: str, progress: bool) -> None:
        self._ready = threading.Event()
        self._why = ""
        self._refused = False
        settings = _settings(self.address, self.access)
        self._reader = Reader(
            partial(connect, settings, lambda: LARGEST),
            self.address.name,
            self,
            lambda: 1.0,
        )
        self._reader.start()
        if not self._ready.wait(PATIENCE) or self._refused:
            self.close()
            raise BusError(f"{self.address.label}: {self._why or 'no answer'}")

    def close(self) -> None:
        super().close()
        self._reader.stop()

    def read(self) -> None:
        """
        Nothing: the reader has a thread of its own.
        """

    # In the reader's thread.

    def reading(self, partitions: int) -> None:
        """
        See L{pcapdaemon.listeners._kafka_reader.IReport}.
        """
        if self._why and self._ready.is_set():
            self.note("reading again")
        self._why = ""
        self._ready.set()

    def away(self, why: str, refused: bool) -> None:
        """
        As L{reading}.
        """
        said, self._why = self._why, _hidden(self.address, why)
        if why == "there is no such topic":
            # When it comes, it is read from its beginning.
            self._ready.set()
        if refused and not self._ready.is_set():
            self._refused = True
            self._ready.set()
        elif self._ready.is_set() and self._why != said:
            self.note(f"{self._why}; waiting for it")

    def take(self, messages: list[bytes | int | Damage]) -> None:
        """
        As L{reading}.
        """
        for message in messages:
            if isinstance(message, bytes):
                self.deliver(message)
        self._reader.proceed.set()

    def ended(self) -> None:
        """
        As L{reading}.
        """
