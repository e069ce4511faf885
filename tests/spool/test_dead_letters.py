"""A dead letter is there whole or not at all, once, with the exact bytes, and for its owner's eyes."""

from __future__ import annotations

import os
import stat
import sys
import tracemalloc
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumelog_loguru._batch import BatchId
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import CorruptLetter, DeadLetter, DeadLetters, NewerFormat, SpoolError
from plumelog_loguru._spool._dead_letters import _decoded, _encoded

unix = pytest.mark.skipif(sys.platform == "win32", reason="no such rights and links on Windows")

DESTINATION = Destination("redis-a:6379", 0, "plume_log_list", "left")


def letter(seq: int = 1, value: bytes = b'{"content":"a"}', reason: str = "too large") -> DeadLetter:
    return DeadLetter(BatchId("a" * 32 + ".7", seq), value, DESTINATION, reason, 1_795_305_614_000)


@pytest.fixture
def letters(tmp_path: Path) -> DeadLetters:
    return DeadLetters(tmp_path)


def read_all(letters: DeadLetters) -> list[DeadLetter]:
    return [letters.read(name) for name in letters.names()]


def test_a_letter_is_read_as_it_was_written(letters: DeadLetters) -> None:
    """Identity, reason, destination, time and the exact bytes come back."""
    written = [letter(1), letter(2, b'{"x":"\xff\n\x00"}')]
    for one in written:
        letters.write(one)
    assert sorted(read_all(letters), key=lambda one: one.id.seq) == written
    assert letters.has(written[0].id) and not letters.has(BatchId("b" * 32, 1))


def test_a_letter_that_is_written_again_is_one_letter(letters: DeadLetters) -> None:
    """Its name follows from its identity alone: a step that is repeated makes no second one."""
    letters.write(letter(reason="connection lost at each attempt"))
    letters.write(letter(reason="too large"))
    assert [one.reason for one in read_all(letters)] == ["too large"]


def test_a_letter_that_is_only_prepared_is_no_letter(letters: DeadLetters, tmp_path: Path) -> None:
    """Until it is named nobody finds it; and it can be forgotten."""
    letters.prepare(letter())
    assert letters.names() == [] and not letters.has(letter().id)
    letters.commit(letter().id)
    assert read_all(letters) == [letter()]
    letters.prepare(letter(2))
    letters.discard(BatchId("a" * 32 + ".7", 2))
    assert len(os.listdir(letters.path)) == 1


def test_what_a_dead_writer_left_is_removed_after_a_while(letters: DeadLetters) -> None:
    """A letter that never got its name is cleared away by a later writer; one of this moment is not."""
    letters.prepare(letter(1))
    letters.prepare(letter(2))
    old = next(path for path in letters.path.iterdir())
    os.utime(old, (1, 1))
    letters.write(letter(3))
    assert not old.exists()
    assert sorted(path.suffix for path in letters.path.iterdir()) == [".letter", ".new"]


def test_nothing_is_made_before_the_first_letter(letters: DeadLetters) -> None:
    """To look for letters leaves no trace."""
    assert letters.names() == [] and not letters.has(letter().id)
    assert not letters.path.exists()


def test_a_letter_can_be_removed(letters: DeadLetters) -> None:
    """Removing is deleting one file, and may be repeated."""
    letters.write(letter(1))
    letters.write(letter(2))
    (first, second) = letters.names()
    letters.remove(first)
    letters.remove(first)
    assert letters.names() == [second]
    with pytest.raises(SpoolError, match="cannot be read"):
        letters.read(first)


@pytest.mark.parametrize("name", ["../../etc/passwd", "part-0", "a" * 32, "A" * 32 + ".letter"])
def test_only_names_of_letters_are_taken(letters: DeadLetters, name: str) -> None:
    """A name that leads elsewhere is refused before a file is touched."""
    for call in (letters.read, letters.remove):
        with pytest.raises(SpoolError, match="not the name of a dead letter"):
            call(name)


@unix
def test_letters_are_for_their_owner_only(letters: DeadLetters) -> None:
    """Directory 0700 and files 0600, whatever the umask says."""
    before = os.umask(0)
    try:
        letters.write(letter())
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(os.lstat(path).st_mode) for path in (letters.path, *letters.path.iterdir())]
    assert modes == [0o700, 0o600]


@unix
def test_links_are_refused(letters: DeadLetters, tmp_path: Path) -> None:
    """A link in the place of the directory, or of a file, leads no letter out of the spool."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    letters.path.symlink_to(elsewhere)
    with pytest.raises(SpoolError, match="a symbolic link is refused"):
        letters.write(letter())
    assert list(elsewhere.iterdir()) == []
    letters.path.unlink()
    letters.write(letter())
    (path,) = letters.path.iterdir()
    path.rename(elsewhere / "stolen")
    path.symlink_to(elsewhere / "stolen")
    assert letters.names() == [] and not letters.has(letter().id)
    with pytest.raises(SpoolError, match="cannot be read"):
        letters.read(path.name)
    path.with_suffix(".new").symlink_to(elsewhere / "victim")
    letters.write(letter())
    assert not (elsewhere / "victim").exists() and not path.is_symlink()


@unix
@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_directory_is_refused_by_every_call(
    kind: str, letters: DeadLetters, tmp_path: Path
) -> None:
    """A link to the letters of another spool is not followed: none is listed, read, written or removed."""
    (tmp_path / "other").mkdir()
    other = DeadLetters(tmp_path / "other")
    other.write(letter())
    other.prepare(letter(2))
    (name,) = other.names()
    if kind == "link":
        letters.path.symlink_to(other.path)
    else:
        letters.path.touch()
    for call in (
        letters.names,
        lambda: letters.read(name),
        lambda: letters.has(letter().id),
        lambda: letters.remove(name),
        lambda: letters.prepare(letter(3)),
        lambda: letters.commit(letter(2).id),
    ):
        with pytest.raises(SpoolError, match="it is no directory; a symbolic link is refused"):
            call()
    letters.discard(letter(2).id)
    assert len(list(other.path.iterdir())) == 2


@unix
def test_a_file_that_is_larger_than_any_letter_is_not_read(letters: DeadLetters) -> None:
    """It is damaged, and takes no memory."""
    letters.write(letter())
    (name,) = letters.names()
    os.truncate(letters.path / name, 1 << 40)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptLetter, match="larger than a letter can be"):
            letters.read(name)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@unix
def test_a_disk_that_takes_no_letter_is_told_of(
    letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails raises our own error, and leaves nothing half-written."""

    def full(fd: int, *_: object) -> None:
        raise OSError(28, "No space left on device")

    fsyncing = DeadLetters(letters.path.parent, fsync=True)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SpoolError, match="No space left"):
        fsyncing.write(letter())
    assert list(letters.path.iterdir()) == []


def test_what_is_on_the_disk_itself_is_asked_for(
    letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fsync: the file before its name, then the directory with the name."""
    happened: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(fd: int) -> None:
        happened.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    def noted_replace(old: Path, new: Path) -> None:
        happened.append("name")
        replace(old, new)

    letters.write(letter(1))
    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    DeadLetters(letters.path.parent, fsync=True).write(letter(2))
    assert happened == ["file", "name", "directory"]
    happened.clear()
    letters.write(letter(3))
    assert happened == ["name"]


@settings(max_examples=200, deadline=None)
@given(value=st.binary(max_size=200), reason=st.text(max_size=30), data=st.data())
def test_a_flipped_bit_is_noticed(value: bytes, reason: str, data: st.DataObject) -> None:
    """Any one bit: the letter is said to be damaged, and never read as another."""
    encoded = bytearray(_encoded(letter(1, value, reason)))
    assert _decoded(bytes(encoded)).value == value
    place = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[place // 8] ^= 1 << place % 8
    with pytest.raises(CorruptLetter):
        _decoded(bytes(encoded))


@pytest.mark.parametrize(
    "header", [b"[]", b'{"format":1}', b'{"format":1,"lane":"a","seq":null}', b"nonsense"]
)
def test_an_intact_stranger_is_no_letter(header: bytes) -> None:
    """A right checksum over something else is damage, and no crash."""
    rest = header + b"\nvalue"
    with pytest.raises(CorruptLetter):
        _decoded(b"PLD1 %08x " % crc32(rest) + rest)


def test_a_letter_of_a_newer_version_says_so() -> None:
    """It is not taken for damaged."""
    rest = b'{"format":2}\nvalue'
    with pytest.raises(NewerFormat, match="format 2; this version reads 1"):
        _decoded(b"PLD1 %08x " % crc32(rest) + rest)
