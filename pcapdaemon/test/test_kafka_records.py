# See LICENSE for details.
"""
Tests for L{pcapdaemon.listeners._kafka_records}.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable

import lz4.frame
import snappy
import zstandard
from kafka import TopicPartition
from kafka.codec import snappy_encode
from kafka.consumer.fetcher import Fetcher
from kafka.errors import KafkaConfigurationError
from kafka.record import MemoryRecords

from twisted.trial.unittest import SynchronousTestCase

from pcapdaemon.listeners._kafka_reader import connect
from pcapdaemon.listeners._kafka_records import (
    LIMIT,
    Damage,
    Item,
    SoundRecords,
    TooLarge,
    decompress,
)
from pcapdaemon.test.network import environment
from pcapdaemon.test.servers_kafka import GZIP, LZ4, NONE, SNAPPY, ZSTD, batch, forged

COMPRESS: dict[int, Callable[[bytes], bytes]] = {
    GZIP: gzip.compress,
    SNAPPY: snappy_encode,
    LZ4: lz4.frame.compress,
    ZSTD: zstandard.ZstdCompressor().compress,
}

#: Lets decompression take 64 MiB more than the program has at its start.
_LIMITED = """
import resource, sys
from pcapdaemon.listeners._kafka_records import TooLarge, decompress
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + 64 * 1024 * 1024
resource.setrlimit(resource.RLIMIT_AS, (most, most))
try:
    decompress(int(sys.argv[1]), sys.stdin.buffer.read())
except TooLarge:
    print("too large")
"""


class DecompressTests(SynchronousTestCase):
    """
    Decompression up to a limit.
    """

    def test_whole(self) -> None:
        """
        Content of up to the limit comes out as it went in.
        """
        for content in (b"", b"x", bytes(range(256)) * 100, bytes(LIMIT)):
            for codec, compress in COMPRESS.items():
                self.assertEqual(decompress(codec, compress(content)), content)
            if content:
                self.assertEqual(decompress(SNAPPY, snappy.compress(content)), content)

    def test_tooLarge(self) -> None:
        """
        One byte more is refused.
        """
        content = bytes(LIMIT + 1)
        for codec, compress in COMPRESS.items():
            self.assertRaises(TooLarge, decompress, codec, compress(content))
        self.assertRaises(TooLarge, decompress, SNAPPY, snappy.compress(content))

    def test_bomb(self) -> None:
        """
        A process that has 64 MiB refuses 100 MB.
        """
        for codec, compress in COMPRESS.items():
            bomb = compress(bytes(100_000_000))
            run = subprocess.run(
                [sys.executable, "-c", _LIMITED, str(codec)],
                input=bomb,
                env=environment(),
                capture_output=True,
                timeout=60,
            )
            self.assertEqual(run.stdout, b"too large\n", run.stderr)

    def test_damaged(self) -> None:
        """
        What is no content of that compression does not pass as such.
        """
        errors = (
            *(ValueError, RuntimeError, zlib.error),
            *(zstandard.ZstdError, snappy.UncompressError),
        )
        for codec in COMPRESS:
            self.assertRaises(errors, decompress, codec, b"garbage, garbage")
        self.assertRaises(ValueError, decompress, GZIP, gzip.compress(b"x") * 2)
        self.assertRaises(ValueError, decompress, LZ4, lz4.frame.compress(b"x")[:-4])
        self.assertRaises(ValueError, decompress, 5, b"")


def stored(first: int, records: bytes) -> bytes:
    """
    @return: A batch as a broker stores it, with the offset of its first message.
    """
    return first.to_bytes(8, "big") + records[8:]


class SoundRecordsTests(SynchronousTestCase):
    """
    From fetched bytes to messages.
    """

    def read(self, *batches: bytes, at: int = 0, most: int = 65536) -> list[Item]:
        """
        Read everything, and remember where to fetch next.
        """
        records = SoundRecords(
            lambda: most,
            at,
            TopicPartition("capture", 3),
            MemoryRecords(b"".join(batches)),
            key_deserializer=None,
            value_deserializer=None,
        )
        items: list[Item] = records.take(1_000_000)
        self.after = records.next_fetch_offset
        return items

    def test_messages(self) -> None:
        """
        Messages come in order, whatever their compression; one without a value
        is empty.
        """
        for codec in (NONE, GZIP, SNAPPY, LZ4, ZSTD):
            values = [b"a" * 500, None, b"b" * 500]
            items = self.read(stored(7, batch(*values, codec=codec)), at=7)
            self.assertEqual(
                items, [Item(7, b"a" * 500), Item(8, b""), Item(9, b"b" * 500)]
            )
            self.assertEqual(self.after, 10)

    def test_middle(self) -> None:
        """
        What lies before the position is left out.
        """
        items = self.read(stored(7, batch(b"a", b"b", b"c")), at=8)
        self.assertEqual(items, [Item(8, b"b"), Item(9, b"c")])

    def test_partial(self) -> None:
        """
        A batch that was not fetched to its end waits for the next fetch.
        """
        items = self.read(stored(0, batch(b"a")), stored(1, batch(b"b"))[:-1])
        self.assertEqual(items, [Item(0, b"a")])
        self.assertEqual(self.after, 1)

    def test_damage(self) -> None:
        """
        A batch that cannot be read is told and skipped whole; those around it
        are read.
        """
        for codec in COMPRESS:
            items = self.read(
                stored(0, batch(b"a")),
                stored(1, forged(codec, b"garbage", count=5)),
                stored(6, batch(b"b")),
            )
            self.assertEqual([items[0], items[2]], [Item(0, b"a"), Item(6, b"b")])
            damage = items[1].value
            assert isinstance(damage, Damage)
            self.assertEqual((items[1].offset, damage.partition), (5, 3))
            self.assertTrue(damage.why)

    def test_cutShort(self) -> None:
        """
        Compressed messages that end too early are damage.
        """
        whole = batch(b"a" * 50000)[61:]
        for codec, compress in COMPRESS.items():
            [item] = self.read(forged(codec, compress(whole)[:-9]))
            self.assertIsInstance(item.value, Damage)

    def test_onlyDamage(self) -> None:
        """
        Damage at the end does not come again.
        """
        items = self.read(stored(4, forged(NONE, b"\xff" * 40, count=3)), at=4)
        self.assertEqual(len(items), 1)
        self.assertEqual(self.after, 7)

    def test_tail(self) -> None:
        """
        Messages before the damage within a batch are taken.
        """
        good = batch(b"a", b"b")[61:]
        items = self.read(forged(NONE, good + b"\xff\xff", count=3))
        self.assertEqual(items[:2], [Item(0, b"a"), Item(1, b"b")])
        self.assertIsInstance(items[2].value, Damage)
        self.assertEqual(self.after, 3)

    def test_checksum(self) -> None:
        """
        With a wrong checksum no number in the batch is believed: it is skipped
        by one.
        """
        wrong = bytearray(batch(b"a", b"b"))
        wrong[-1] ^= 1
        items = self.read(stored(5, bytes(wrong)), at=5)
        self.assertEqual(items, [Item(5, Damage(3, "wrong checksum"))])
        self.assertEqual(self.after, 6)

    def test_noFrame(self) -> None:
        """
        Bytes that are no batch at all are told, and the position moves on.
        """
        items = self.read(bytes(8) + b"\0\0\0\5" + b"12345", at=9)
        self.assertIsInstance(items[0].value, Damage)
        self.assertEqual(self.after, 10)

    def test_control(self) -> None:
        """
        What a transaction leaves behind is no message.
        """
        marker = forged(0x30, batch(b"\0\0\0\0\0\0")[61:])
        self.assertEqual(self.read(marker), [])
        self.assertEqual(self.after, 1)

    def test_large(self) -> None:
        """
        Of a message that is too large the size is told, of a batch that is how
        large it is at least.
        """
        items = self.read(batch(b"abc", b"abcd"), most=3)
        self.assertEqual(items, [Item(0, b"abc"), Item(1, 4)])
        bomb = forged(GZIP, gzip.compress(bytes(LIMIT * 4)), count=9)
        self.assertEqual(self.read(bomb), [Item(8, LIMIT + 1)])
        self.assertEqual(self.after, 9)

    def test_hook(self) -> None:
        """
        The consumer that is made reads by this class, and connects to nobody by
        itself.
        """
        consumer, cluster = connect({"bootstrap_servers": ["127.0.0.1:1"]}, lambda: 10)
        self.addCleanup(consumer.close)
        self.assertIsInstance(consumer._fetcher, Fetcher)
        records = consumer._fetcher.PartitionRecords(0, None, MemoryRecords(b""))
        self.assertIsInstance(records, SoundRecords)
        self.assertFalse(cluster.config["allow_auto_create_topics"])

    def test_badSettings(self) -> None:
        """
        A consumer that cannot be made leaves no thread behind.
        """
        threads = threading.active_count()
        for wrong in ({"nonsense": 1}, {"group_instance_id": "x"}):
            self.assertRaises(KafkaConfigurationError, connect, wrong, int)
        self.assertEqual(threading.active_count(), threads)
