# See LICENSE for details.
"""
Events to a Kafka topic. Their key is the capture, so that all of one are in one
partition, in their order.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError
from kafka.net.compat import KafkaNetClient

from twisted.internet.defer import Deferred

from pcapdaemon.events import Events
from pcapdaemon.listeners._kafka_reader import REFUSALS, LastWords
from pcapdaemon.publishers._publisher import Item, Publisher, PublishError

#: Seconds to wait for the brokers: to know them, and until they have a batch.
ANSWER = 4.0
#: Seconds between two attempts to connect: the first and the last.
FIRST, LAST = 0.1, 2.0


def _client(**configs: Any) -> KafkaNetClient:
    client = KafkaNetClient(**configs)
    # The producer takes this, but does not pass it on: a mistyped topic would be
    # made.
    client.cluster.config["allow_auto_create_topics"] = False
    return client


class Producer:
    """
    A C{KafkaProducer} without its traps. It is used in one thread.

    It batches, sends again and may then change the order of records. So each batch
    is handed to it as a whole, each partition's part of it goes out as one, and what
    does not arrive in time is given up together with the producer.
    """

    def __init__(self, settings: dict[str, Any], topic: str) -> None:
        self._settings = settings
        self._topic = topic
        self._producer: Any = None
        self._words = LastWords()

    def send(self, records: Sequence[tuple[bytes, bytes]]) -> list[str | None]:
        """
        Publish records.

        @param records: Key and value of each; with none, only see whether the
            topic is there.
        @return: For each: L{None} if it has arrived, or why it never will.
        @raise Failed: Some have not arrived.
        """
        logger = logging.getLogger("kafka")
        # Having a handler, the library does not write to standard error.
        logger.addHandler(self._words)
        self._words.error = None
        try:
            if self._producer is None:
                self._producer = self._make()
            return self._send(records)
        except Failed:
            self.close()
            raise
        except Exception as error:
            self.close()
            # A time-out says nothing.
            timeout = isinstance(error, KafkaTimeoutError) and self._words.error
            raise Failed([False] * len(records), timeout or error) from None
        finally:
            logger.removeHandler(self._words)

    def _make(self) -> Any:
        return KafkaProducer(
            client_id="pcapdaemon",
            # Without it the constructor asks the brokers, and waits for them.
            api_version=(3, 0),
            # It needs a right of its own, and is not needed for the order.
            enable_idempotence=False,
            acks="all",
            max_in_flight_requests_per_connection=1,
            # Nothing goes out before the flush.
            linger_ms=3_600_000,
            batch_size=1_000_000,
            max_block_ms=int(ANSWER * 1000),
            request_timeout_ms=int(ANSWER * 1000),
            delivery_timeout_ms=3_700_000,
            reconnect_backoff_ms=int(FIRST * 1000),
            reconnect_backoff_max_ms=int(LAST * 1000),
            metrics_enabled=False,
            kafka_client=_client,
            **self._settings,
        )

    def _send(self, records: Sequence[tuple[bytes, bytes]]) -> list[str | None]:
        if not self._producer.partitions_for(self._topic):
            raise LookupError("there is no such topic")
        futures = self._flushed(records)
        large = [
            number
            for number, future in enumerate(futures)
            if isinstance(future.exception, MessageSizeTooLargeError)
        ]
        outcome: list[str | None] = [None] * len(records)
        for number in large:
            # Together they were too large for the broker; one may be by itself.
            [futures[number]] = self._flushed([records[number]])
            if isinstance(futures[number].exception, MessageSizeTooLargeError):
                outcome[number] = "larger than the broker allows"
        there = [
            future.succeeded() or outcome[number] is not None
            for number, future in enumerate(futures)
        ]
        if not all(there):
            error = futures[there.index(False)].exception
            raise Failed(there, error or self._words.error or KafkaTimeoutError())
        return outcome

    def _flushed(self, records: Sequence[tuple[bytes, bytes]]) -> list[Any]:
        futures = [
            self._producer.send(self._topic, value, key) for key, value in records
        ]
        try:
            self._producer.flush(ANSWER)
        except KafkaTimeoutError:
            pass
        return futures

    def close(self) -> None:
        """
        Give the connections up, and what is on its way.
        """
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.close(timeout=0)
            except KafkaTimeoutError:
                # It could not flush, and so forgets to end its thread, and would
                # wait for it in whatever thread it is collected.
                producer._sender.force_close()
                producer._closed = True


class Failed(Exception):
    """
    Not all records have arrived.

    @ivar there: Which have.
    @ivar why: The first error.
    """

    def __init__(self, there: list[bool], why: Exception) -> None:
        super().__init__(why)
        self.there = there
        self.why = why


class KafkaPublisher(Publisher):
    """
    Publishes to one topic.
    """

    name = "kafka"
    most = 500
    mostBytes = 400_000
    #: The library takes a little more, as brokers do if not told otherwise.
    longest = 1_000_000
    probes = True

    def __init__(
        self,
        reactor: Any,
        events: Events,
        topic: str,
        inThread: Callable[..., Deferred[Any]],
        *,
        servers: Sequence[str],
        security: str = "PLAINTEXT",
        cafile: str = "",
        username: str = "",
        password: str = "",
        mechanism: str = "PLAIN",
        **common: Any,
    ) -> None:
        """
        @param inThread: Calls what blocks, one after the other.
        @param servers: Some brokers of the cluster, each C{host:port}.
        @param common: As with L{Publisher}.
        @raise OSError: C{cafile} cannot be read, or holds no certificate.
        """
        where = f"topic {topic} of Kafka at {', '.join(servers)}"
        super().__init__(reactor, events, where, **common)
        self._password = password
        self._inThread = inThread
        settings: dict[str, Any] = {
            "bootstrap_servers": list(servers),
            "security_protocol": security,
        }
        if security.endswith("SSL"):
            settings["ssl_context"] = ssl.create_default_context(cafile=cafile or None)
        if security.startswith("SASL"):
            settings["sasl_mechanism"] = mechanism
            settings["sasl_plain_username"] = username
            settings["sasl_plain_password"] = password
        self._producer = Producer(settings, topic)

    def disconnect(self) -> Deferred[None]:
        """
        Close the connections, in the thread, which may be busy.
        """
        return self._inThread(self._producer.close)

    async def send(self, batch: Sequence[Item]) -> None:
        records = [(item.id.encode(), item.data) for item in batch]
        try:
            outcome = await self._inThread(self._producer.send, records)
        except Failed as failed:
            for item, there in zip(batch, failed.there, strict=True):
                item.done = there
            why = failed.why
            # A lone word needs the name of the exception to be understood.
            text = str(why) if " " in str(why) else repr(why)
            if self._password:
                text = text.replace(self._password, "***")
            raise PublishError(text, isinstance(why, REFUSALS)) from None
        for item, refusal in zip(batch, outcome, strict=True):
            item.done, item.refusal = refusal is None, refusal or ""
