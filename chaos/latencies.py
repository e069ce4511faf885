"""How long calls took: a histogram in a mapped file, which outlives the program that fills it."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable
from pathlib import Path

_SUBDIVISIONS = 8  # of each power of two: a bucket is at most an eighth wider than its lower bound
_BUCKETS = 48 * _SUBDIVISIONS  # up to 2**48 ns, three days
_COUNT = struct.Struct("<Q")


class Latencies:
    """Each thread has a row of its own, so nobody waits for anybody."""

    def __init__(self, path: Path, threads: int) -> None:
        """Map the file, and make it first where it is missing."""
        size = threads * _BUCKETS * _COUNT.size
        with open(path, "ab") as file:
            file.truncate(size)
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)

    def add(self, thread: int, nanoseconds: int) -> None:
        """A call of this thread took so long."""
        place = (thread * _BUCKETS + _bucket(nanoseconds)) * _COUNT.size
        (count,) = _COUNT.unpack_from(self._map, place)
        _COUNT.pack_into(self._map, place, count + 1)

    def counts(self) -> list[int]:
        """How many calls fell into each bucket, of all threads."""
        counts = [0] * _BUCKETS
        for place, (count,) in enumerate(_COUNT.iter_unpack(self._map[:])):
            counts[place % _BUCKETS] += count
        return counts


def quantile_us(histograms: Iterable[Latencies], quantile: float) -> float:
    """The latency in microseconds that this share of all calls did not exceed; 0.0 without a call."""
    counts = [sum(column) for column in zip(*(histogram.counts() for histogram in histograms), strict=True)]
    missing = sum(counts) * quantile
    for bucket, count in enumerate(counts):
        missing -= count
        if count and missing <= 0:
            return _upper_bound(bucket) / 1000
    return 0.0


def _bucket(nanoseconds: int) -> int:
    power = max(nanoseconds.bit_length(), 4) - 1
    return min((power - 3) * _SUBDIVISIONS + (nanoseconds >> (power - 3)) % _SUBDIVISIONS, _BUCKETS - 1)


def _upper_bound(bucket: int) -> int:
    power, part = divmod(bucket, _SUBDIVISIONS)
    return (_SUBDIVISIONS + part + 1) << power
