# See LICENSE for details.
"""
From what a Kafka broker sends to messages, so that no message can hurt the next.

kafka-python decompresses whatever it is given, to any size, and a batch that it
cannot read it reads again, for ever. Here a batch is decompressed up to a limit,
and what cannot be read is skipped and told.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import lz4.frame
import snappy
import zstandard
from kafka.consumer.fetcher import Fetcher
from kafka.record.default_records import DefaultRecordBatch

#: Bytes that a compressed batch may decompress to. Producers make batches of
#: some KiB, and of no more than one message where those are larger.
LIMIT = 8 * 1024 * 1024

_XERIAL = b"\x82SNAPPY\0"


class TooLarge(Exception):
    """
    A batch is larger than L{LIMIT}.

    @ivar size: How large at least.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"more than {LIMIT} bytes when decompressed")
        self.size = size


@attrs.frozen
class Damage:
    """
    What stands in the place of messages that nobody can read.

    @ivar partition: Where they are.
    @ivar why: What is wrong with them.
    """

    partition: int
    why: str


@attrs.frozen
class Item:
    """
    One message, or what stands in its place.

    @ivar offset: Its place in the partition.
    @ivar value: The message; or its size, where that is more than a message may
        have; or L{Damage}.
    """

    offset: int
    value: bytes | int | Damage


def _bounded(size: int) -> None:
    if size > LIMIT:
        raise TooLarge(size)


def _gzip(data: bytes) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    content = stream.decompress(data, LIMIT + 1)
    _bounded(len(content))
    if not stream.eof or stream.unused_data:
        raise ValueError("not one whole gzip stream")
    return content


def _snappyBlock(data: bytes) -> bytes:
    # Its size comes first, in groups of seven bits, and memory is taken for it.
    size = 0
    for n, byte in enumerate(data[:5]):
        size |= (byte & 0x7F) << (7 * n)
        if byte < 0x80:
            break
    _bounded(size)
    content: bytes = snappy.uncompress(data)
    return content


def _snappy(data: bytes) -> bytes:
    if not data.startswith(_XERIAL):
        return _snappyBlock(data)
    content, at = bytearray(), 16
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        at += 4 + length
        content += _snappyBlock(data[at - length : at])
        _bounded(len(content))
    return bytes(content)


def _lz4(data: bytes) -> bytes:
    stream = lz4.frame.LZ4FrameDecompressor()
    content: bytes = stream.decompress(data, max_length=LIMIT + 1)
    _bounded(len(content))
    if not stream.eof:
        raise ValueError("not a whole LZ4 frame")
    return content


def _zstd(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(data) as stream:
        content = stream.read(LIMIT + 1)
    _bounded(len(content))
    return content


_CODECS: dict[int, Callable[[bytes], bytes]] = {
    DefaultRecordBatch.CODEC_GZIP: _gzip,
    DefaultRecordBatch.CODEC_SNAPPY: _snappy,
    DefaultRecordBatch.CODEC_LZ4: _lz4,
    DefaultRecordBatch.CODEC_ZSTD: _zstd,
}


def decompress(codec: int, data: bytes) -> bytes:
    """
    @param codec: Kafka's number of the compression.
    @return: The content, at most L{LIMIT} bytes.
    @raise TooLarge: It is more.
    @raise Exception: It is damaged; each codec has exceptions of its own.
    """
    if codec not in _CODECS:
        raise ValueError(f"unknown compression {codec}")
    return _CODECS[codec](data)


def _plain(batch: Any) -> Any:
    """
    @return: The same batch, not compressed.
    """
    if not batch.compression_type:
        return batch
    if batch.magic < 2:
        # No broker that is still maintained stores them.
        raise ValueError("compressed in the format before Kafka 0.11")
    head, body = batch._buffer[: batch._pos], bytes(batch._buffer[batch._pos :])
    content = decompress(batch.compression_type, body)
    attributes = batch.attributes & ~batch.CODEC_MASK
    struct.pack_into(">h", head, batch.ATTRIBUTES_OFFSET, attributes)
    return DefaultRecordBatch(head + content)


class SoundRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """
    What was fetched of one partition, as L{Item}s. Takes the place of the class
    of the same base in a C{Fetcher}.
    """

    def __init__(
        self, maxmessage: Callable[[], int], *args: Any, **kwargs: Any
    ) -> None:
        """
        @param maxmessage: Says, in the reader's thread, how many bytes a
            message may have at the moment. The content of larger ones is let
            go, however many there are.
        """
        self._maxmessage = maxmessage
        self.next_fetch_offset: int
        self.bytes_read: int
        super().__init__(*args, **kwargs)

    def _unpack_records(self, tp: Any, records: Any, *_: Any) -> Iterator[Item]:
        while True:
            batch, after = None, 0
            try:
                batch = records.next_batch()
                if batch is None:
                    break
                if not batch.validate_crc():
                    raise ValueError("wrong checksum")
                # From here on the numbers in it can be believed.
                after = getattr(batch, "next_offset", 0)
                if not getattr(batch, "is_control_batch", False):
                    yield from self._items(_plain(batch))
                # The last ones may be gone from a compacted topic.
                self.next_fetch_offset = max(after, self.next_fetch_offset)
            except TooLarge as e:
                yield self._instead(after, e.size)
            except Exception as e:
                yield self._instead(after, Damage(tp.partition, f"{e}" or repr(e)))
                if batch is None:
                    break  # Where the next one begins is unknown.
        self.drain()

    def _items(self, batch: Any) -> Iterator[Item]:
        for record in batch:
            # A compressed batch comes whole, from before what was asked for.
            if record.offset >= self.next_fetch_offset:
                self.next_fetch_offset = record.offset + 1
                value = record.value or b""
                self.bytes_read += 1 + len(value)  # Partitions take turns by it.
                large = len(value) > self._maxmessage()
                yield Item(record.offset, len(value) if large else value)

    def _instead(self, after: int, value: int | Damage) -> Item:
        self.next_fetch_offset = max(after, self.next_fetch_offset + 1)
        return Item(self.next_fetch_offset - 1, value)
