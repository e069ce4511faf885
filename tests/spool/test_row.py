"""A row comes back as it was written, or not at all."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumelog_loguru._batch import AttemptedBy, Batch, BatchId
from plumelog_loguru._spool._row import CorruptRow, NewerFormat, decode_row, encode_row

values = st.binary(max_size=60).map(lambda data: data.replace(b"\n", b" "))
batches = st.builds(
    Batch,
    st.builds(BatchId, st.text("0123456789abcdef.", min_size=1, max_size=40), st.integers(1, 2**53)),
    st.lists(values, max_size=5).map(tuple),
    st.sampled_from(AttemptedBy),
    st.integers(0, 2**53),
)


def _signed(rest: bytes) -> bytes:
    return b"PLS1 %08x %b" % (crc32(rest), rest)


@given(batches)
def test_a_batch_comes_back_as_it_was(batch: Batch) -> None:
    """Identity, values, doubt and time of the last attempt survive, for any values without a newline."""
    assert decode_row(encode_row(batch)).batch == batch


@given(batches, st.data())
def test_any_single_flipped_bit_is_detected(batch: Batch, data: st.DataObject) -> None:
    """Whichever bit of a row is flipped, it is corrupt: never another batch, never a newer format."""
    row = bytearray(encode_row(batch))
    bit = data.draw(st.integers(0, len(row) * 8 - 1))
    row[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(CorruptRow):
        decode_row(bytes(row))


@given(st.binary(max_size=200))
def test_anything_else_is_corrupt(data: bytes) -> None:
    """What was never a row is corrupt, with or without a checksum that fits."""
    for row in (data, _signed(data)):
        with pytest.raises(CorruptRow):
            decode_row(row)


@given(batches, st.integers(0, 500))
def test_a_torn_row_is_corrupt(batch: Batch, kept: int) -> None:
    """A row that ends early is corrupt."""
    row = encode_row(batch)
    with pytest.raises(CorruptRow):
        decode_row(row[: min(kept, len(row) - 1)])


def test_the_header_tells_times_and_level() -> None:
    """The header has the times of the first and last record, and the highest level of all."""
    row = decode_row(
        encode_row(
            Batch(
                BatchId("ab", 7),
                (
                    b'{"logLevel":"INFO","dtTime":1795305614873}',
                    b'{"dtTime":1795305614990,"logLevel":"WARN"}',
                    b'{"content":"\\"logLevel\\":\\"ERROR\\",\\"dtTime\\":5,","dtTime":1795305615000,"logLevel":"DEBUG"}',
                ),
            )
        )
    )
    assert (row.first_ms, row.last_ms, row.level) == (1795305614873, 1795305615000, "WARN")


def test_records_without_time_and_level_are_taken() -> None:
    """A value that is no record of ours is spooled all the same."""
    row = decode_row(encode_row(Batch(BatchId("ab", 1), (b"", b"\xff"))))
    assert (row.first_ms, row.last_ms, row.level) == (0, 0, "")


def test_a_newer_format_is_told_from_damage() -> None:
    """An intact row of a newer version is not taken for a corrupt one."""
    with pytest.raises(NewerFormat, match="format 2"):
        decode_row(_signed(b'{"format":2}\n'))


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{}",
        b'{"format":"1"}',
        b'{"format":1,"count":2,"lane":"a","seq":1}',
        b'{"format":1,"count":1,"lane":3,"seq":1,"attempted_by":"nobody","last_attempt_ms":0,"first_ms":0,"last_ms":0,"level":""}',
        b'{"format":1,"count":1,"lane":"a","seq":1,"attempted_by":"me","last_attempt_ms":0,"first_ms":0,"last_ms":0,"level":""}',
    ],
)
def test_a_header_that_we_never_wrote_is_corrupt(header: bytes) -> None:
    """A checksum that fits is no excuse for a header that makes no sense."""
    with pytest.raises(CorruptRow):
        decode_row(_signed(header + b"\nvalue"))


def test_a_value_with_a_newline_is_refused() -> None:
    """A newline inside a value would come back as two values."""
    with pytest.raises(ValueError, match="newline"):
        encode_row(Batch(BatchId("ab", 1), (b"one\ntwo",)))
