"""The journal of a living owner: room, laps, identities, and what may come in between."""

from __future__ import annotations

import dis
import errno
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from plumelog_loguru._batch import AttemptedBy, BatchId
from plumelog_loguru._journal import Journal, JournalError, Journals, Run, runs_of, value_of
from plumelog_loguru._journal import _file as file_module
from plumelog_loguru._journal._format import (
    HEADER_BYTES,
    VALUE_OFFSET,
    decode_attempt,
    decode_cut,
    decode_header,
    decode_settled,
)

from .conftest import CAPACITY

BATCH = BatchId("0123456789abcdef" * 2, 7)


def value(number: int, size: int = 100) -> bytes:
    return b'{"seq":%d,"pad":"%s"}' % (number, b"x" * size)


def put(journal: Journal, *values: bytes) -> list[bytes]:
    frames = [journal.append(one) for one in values]
    return [frame for frame in frames if frame is not None]


def fill(journal: Journal, size: int = 100) -> list[bytes]:
    """Append until there is no room."""
    frames: list[bytes] = []
    while (frame := journal.append(value(len(frames), size))) is not None:
        frames.append(frame)
    return frames


def on_disk(journal: Journal, run: Run) -> bytes:
    at = HEADER_BYTES + run.start % journal.capacity
    return journal.path.read_bytes()[at : at + VALUE_OFFSET]


def settle(journal: Journal, frames: list[bytes]) -> None:
    journal.settle(runs_of(frames))
    journal.advance()


# ---------------------------------------------------------------- frames and runs


def test_a_frame_holds_its_value(journal: Journal) -> None:
    """What comes out of a frame is what was put in, an empty record too; one without a frame is itself."""
    for one in (value(1), b"", b"{}"):
        frame = journal.append(one)
        assert frame is not None and value_of(frame) == one and frame[:1] != b"{"
        assert value_of(one) == one


def test_a_frame_is_in_the_file_before_the_call_returns(journal: Journal) -> None:
    """Nothing of an appended record is only in this process."""
    frame = journal.append(value(1))
    assert frame is not None and journal.path.read_bytes()[HEADER_BYTES:].startswith(frame)


def test_runs_are_exact(make_journal: Callable[..., Journal]) -> None:
    """A run ends where a frame is missing, where another journal begins, and at the end of a lap."""
    one, two = make_journal(), make_journal()
    frames = put(one, *(value(number) for number in range(5)))
    others = put(two, *(value(number) for number in range(2)))
    size = len(frames[0])
    assert runs_of(frames) == [Run(one.key, 0, 5 * size, 0)]
    assert runs_of([*frames[:2], *frames[3:]]) == [
        Run(one.key, 0, 2 * size, 0),
        Run(one.key, 3 * size, 5 * size, 2),
    ]
    assert runs_of([frames[0], *others, frames[1]]) == [
        Run(one.key, 0, size, 0),
        Run(two.key, 0, 2 * size, 1),
        Run(one.key, size, 2 * size, 3),
    ]
    assert runs_of([]) == runs_of([value(1)]) == []


def test_a_record_without_a_frame_counts_for_places_only(journal: Journal) -> None:
    """A run's place in its batch counts the records that have no frame; they break no run."""
    frames = put(journal, value(1), value(2))
    assert runs_of([value(0), frames[0], value(9), frames[1]]) == [Run(journal.key, 0, 2 * len(frames[0]), 1)]


# ---------------------------------------------------------------- room


def test_a_full_ring_takes_nothing_until_its_oldest_is_settled(journal: Journal) -> None:
    """Room comes from the tail: settling the newest frees nothing, settling the oldest frees all."""
    frames = fill(journal)
    assert len(frames) == CAPACITY // len(frames[-1]) or len(frames) > 60
    assert journal.half_full
    settle(journal, frames[5:])
    assert journal.append(value(0)) is None
    settle(journal, frames[:5])
    assert journal.is_clear and journal.append(value(0)) is not None and not journal.half_full


@pytest.mark.parametrize("keep", [1, 3, 20])
def test_laps_go_round_for_ever(journal: Journal, keep: int) -> None:
    """With frames of all sizes, kept for a while, every frame reads back and no position comes twice."""
    held: list[bytes] = []
    seen: set[int] = set()
    for number in range(3000):
        frame = journal.append(value(number, number * 37 % 300))
        assert frame is not None
        held.append(frame)
        (run,) = runs_of([frame])
        assert run.start not in seen
        seen.add(run.start)
        if len(held) > keep:
            oldest = held.pop(0)
            (run,) = runs_of([oldest])
            at = HEADER_BYTES + run.start % journal.capacity
            assert journal.path.read_bytes()[at : at + len(oldest)] == oldest
            settle(journal, [oldest])
    assert journal.strays(runs_of(held)) == []
    settle(journal, held)
    assert journal.is_clear


def test_an_emptied_ring_begins_anew(make_journal: Callable[..., Journal]) -> None:
    """A service that delivers what it logs touches the first pages only, and has all of the room."""
    journal = make_journal(1 << 20)
    for number in range(5000):
        settle(journal, put(journal, value(number)))
    touched = journal.path.read_bytes()[HEADER_BYTES:].rstrip(b"\0")
    assert len(touched) < 66 << 10
    assert sum(map(len, fill(journal))) > (1 << 20) - 1000


def test_a_frame_as_large_as_the_ring(journal: Journal) -> None:
    """The largest frame fits into an empty ring wherever it ended, and one byte more never does."""
    largest = b"x" * (journal.capacity - VALUE_OFFSET)
    for _ in range(3):
        assert journal.append(largest + b"x") is None
        frame = journal.append(largest)
        assert frame is not None and journal.used_bytes == journal.capacity
        settle(journal, [frame])
        settle(journal, put(journal, value(1)))


# ---------------------------------------------------------------- cuts, settlements, the tail


def test_a_cut_stands_in_the_first_frame_of_each_run(journal: Journal) -> None:
    """Lane, number, end and place are in the file; a later attempt changes who and when, and nothing else."""
    frames = put(journal, *(value(number) for number in range(6)))
    batch = [frames[0], frames[1], frames[4]]
    runs = runs_of(batch)
    journal.cut(runs, BATCH, AttemptedBy.NOBODY, 0)
    journal.cut(runs, BATCH, AttemptedBy.SCRIPT, 1_795_305_614_000)
    for run, index in zip(runs, (0, 2), strict=True):
        head = on_disk(journal, run)
        cut = decode_cut(journal.key, run.start, head)
        attempt = decode_attempt(journal.key, run.start, head)
        assert cut is not None and attempt is not None
        assert (cut.batch_id, cut.upto, cut.index) == (BATCH, run.upto, index)
        assert (attempt.attempted_by, attempt.at_ms) == (AttemptedBy.SCRIPT, 1_795_305_614_000)
        assert decode_settled(journal.key, run.start, head) == 0


def test_a_cut_holds_for_its_own_place_and_journal_only(journal: Journal) -> None:
    """What an earlier lap or another journal left at a place is never taken for this frame's."""
    (frame,) = put(journal, value(1))
    (run,) = runs_of([frame])
    journal.cut([run], BATCH, AttemptedBy.SCRIPT, 1)
    journal.settle([run])
    head = on_disk(journal, run)
    for key, position in ((journal.key, run.start + journal.capacity), (journal.key ^ 1, run.start)):
        for decode in (decode_cut, decode_attempt):
            with pytest.raises(ValueError, match="damaged"):
                decode(key, position, head)
        assert decode_settled(key, position, head) == 0
    assert decode_settled(journal.key, run.start, head) == run.upto


def test_the_tail_passes_what_is_settled(journal: Journal) -> None:
    """The header's tail stands at the oldest frame that is not settled, whatever came behind it."""
    frames = put(journal, *(value(number) for number in range(6)))
    size = len(frames[0])
    for settled, tail in (((1, 2), 0), ((4,), 0), ((0,), 3), ((5,), 3), ((3,), 6)):
        settle(journal, [frames[number] for number in settled])
        assert decode_header(journal.path.read_bytes())[1] == tail * size
    assert journal.is_clear and journal.used_bytes == 0


def test_what_is_settled_twice_harms_no_later_frame(journal: Journal) -> None:
    """A settlement or a cut that comes after the room was given away writes nothing."""
    old = fill(journal)
    settle(journal, old)
    fill(journal, 33)
    before = journal.path.read_bytes()
    journal.settle(runs_of(old))
    journal.cut(runs_of(old), BATCH, AttemptedBy.SCRIPT, 1)
    assert journal.path.read_bytes() == before


# ---------------------------------------------------------------- strays


def test_a_stray_is_found_once(journal: Journal) -> None:
    """A frame below the newest in flight that is nowhere is given out, once, and is remembered."""
    frames = put(journal, *(value(number) for number in range(8)))
    settle(journal, frames[1:3])
    assert journal.strays(runs_of([frames[3], frames[5]])) == [frames[0], frames[4]]
    assert journal.strays(runs_of([frames[3], frames[5]])) == []
    assert journal.fetched == {runs_of([frames[0]])[0].start, runs_of([frames[4]])[0].start}
    assert journal.strays([]) == []
    assert journal.strays(runs_of([frames[3], frames[5]]), upto=journal.head) == frames[6:]


def test_strays_are_found_over_the_end_of_a_lap(journal: Journal) -> None:
    """The end of a lap, with nothing that marks it, is passed."""
    frames = fill(journal)
    settle(journal, frames[:40])
    frames = [*frames[40:], *put(journal, *(value(number, 77) for number in range(8)))]
    assert journal.strays(runs_of(frames[::2]), upto=journal.head) == frames[1::2]
    settle(journal, frames)
    assert journal.is_clear


# ---------------------------------------------------------------- what comes in between


class _Interrupted(Exception):
    pass


@pytest.mark.parametrize("ending", ["returns", "raises"])
@pytest.mark.parametrize("state", ["empty", "midst", "end of a lap", "nearly full"])
def test_a_handler_at_any_point_of_append(journal: Journal, ending: str, state: str) -> None:
    """A handler that logs, wherever Python can run one, leaves whole frames side by side and no hole."""
    point, reached = 0, True
    while reached:
        point += 1
        settle(journal, journal.strays([], upto=journal.head))
        if state == "midst":
            put(journal, value(0))
        elif state == "end of a lap":
            settle(journal, fill(journal)[:40])
        elif state == "nearly full":
            settle(journal, fill(journal)[:2])
            put(journal, value(1))
        seen, nested, events, watching = journal.strays([], upto=journal.head), None, 0, True

        # Python runs handlers where a call begins and has ended, 3.10 after a jump too, and so does this.
        def on_event(frame: Any, event: str, argument: Any, point: int = point) -> None:
            nonlocal nested, events, watching
            events += watching
            if watching and events == point:
                watching = False
                nested = journal.append(value(1000 + point, 60))
                if ending == "raises":
                    raise _Interrupted

        jumped = False

        def on_opcode(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal jumped
            frame.f_trace_opcodes = True
            if event == "opcode":
                if jumped:
                    on_event(frame, event, argument)
                jumped = "JUMP" in dis.opname[frame.f_code.co_code[frame.f_lasti]]
            return on_opcode

        outer: bytes | None = None
        before = sys.getprofile(), sys.gettrace()
        sys.settrace(on_opcode)
        sys.setprofile(on_event)
        try:
            outer = journal.append(value(point, 40))
            watching, reached = False, not watching
        except _Interrupted:
            pass
        finally:
            sys.setprofile(before[0])
            sys.settrace(before[1])
        # Only an interrupt after the frame was written leaves one that nobody was given.
        found = journal.strays([], upto=journal.head)
        given = [frame for frame in (nested, outer) if frame is not None]
        assert set(given) <= set(found) and len(set(given)) == len(given)
        if ending == "returns":
            assert len(found) == len(given)
        assert all(frame in journal.path.read_bytes() for frame in given)
        settle(journal, [*seen, *found])
        assert journal.is_clear
    assert point > 8


# ---------------------------------------------------------------- files


def test_rights_are_narrow_whatever_the_umask(tmp_path: Path, mapped: bool) -> None:
    """The file is for its user alone."""
    for umask in (0, 0o777):
        before = os.umask(umask)
        try:
            journal = Journal.create(tmp_path / f"journal-{umask}", CAPACITY, mapped=mapped)
        finally:
            os.umask(before)
        assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600
        journal.remove()
        assert not journal.path.exists()


def test_nothing_is_written_over_or_through_a_link(tmp_path: Path, mapped: bool) -> None:
    """What stands at the path stays as it is."""
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("file", "link"):
        with pytest.raises(JournalError, match=name):
            Journal.create(tmp_path / name, CAPACITY, mapped=mapped)
    assert (tmp_path / "file").read_bytes() == b"mine" and not (tmp_path / "elsewhere").exists()


def test_no_room_leaves_nothing_behind(tmp_path: Path, mapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk the journal is not made, the sentence says why, and no file is left."""

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(JournalError, match="No space left"):
        Journal.create(tmp_path / "journal-1", CAPACITY, mapped=mapped)
    monkeypatch.delattr(os, "posix_fallocate")
    with pytest.raises(JournalError, match="cannot reserve room"):
        Journal.create(tmp_path / "journal-1", CAPACITY, mapped=mapped)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "mapped"), [("ext4", True), ("xfs", True), ("tmpfs", True), ("btrfs", False), ("overlay", False)]
)
def test_only_what_overwrites_in_place_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, mapped: bool
) -> None:
    """The file system decides; one that cannot be told is not trusted."""
    for line, found in ((f"1 1 0:1 / / rw - {kind} none rw\n", mapped), ("", False)):
        monkeypatch.setattr(file_module, "read_mountinfo", lambda line=line: line)
        journal = Journal.create(tmp_path / "journal-1", CAPACITY)
        assert journal.mapped is found
        journal.remove()


@pytest.mark.parametrize("short", [False, True])
def test_a_write_that_fails_appends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: bool
) -> None:
    """Where the disk takes no more, the call says so, and goes on as before once it does."""
    journal = Journal.create(tmp_path / "journal-1", CAPACITY, mapped=False)
    frames = put(journal, value(1))

    def failing(descriptor: int, data: bytes, at: int) -> int:
        if short:
            return len(data) // 2
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", failing)
        with pytest.raises(JournalError, match="cannot be written"):
            journal.append(value(2))
        with pytest.raises(JournalError):
            journal.cut(runs_of(frames), BATCH, AttemptedBy.SCRIPT, 1)
        settle(journal, frames)
        assert not journal.is_clear  # the header could not be written: its room is kept
    assert journal.strays([], upto=journal.head) == []
    journal.advance()
    assert journal.is_clear and journal.append(value(3)) is not None
    journal.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_leaves_the_parents_journal_alone(journal: Journal) -> None:
    """In the child there is no room and nothing is written, whatever it calls; the parent goes on."""
    frames = put(journal, value(1))
    before = journal.path.read_bytes()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            journal.forget_in_child()
            assert journal.append(value(2)) is None
            journal.cut(runs_of(frames), BATCH, AttemptedBy.SCRIPT, 1)
            settle(journal, frames)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert journal.path.read_bytes() == before
    assert journal.append(value(3)) is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_record_survives_the_kill(journal: Journal) -> None:
    """A process that kills itself right after an append leaves the record in the file."""
    child = os.fork()
    if child == 0:
        journal.append(value(42))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert value(42) in journal.path.read_bytes()


# ---------------------------------------------------------------- several


def test_each_run_finds_its_journal(make_journal: Callable[..., Journal]) -> None:
    """An earlier journal is settled through the same door, and given back once it is clear."""
    journals = Journals()
    first, second = make_journal(), make_journal()
    journals.use(first)
    old = put(first, value(1), value(2))
    journals.use(second)
    new = put(second, value(3), value(4))
    journals.cut(runs_of([*old, *new]), BATCH, AttemptedBy.SCRIPT, 1)
    assert decode_cut(first.key, 0, on_disk(first, runs_of(old)[0]))
    assert decode_cut(second.key, 0, on_disk(second, runs_of(new)[0]))
    assert [value_of(one) for one in journals.strays(runs_of(old[:1]))] == [value(2)]
    assert [value_of(one) for one in journals.strays(runs_of(new[1:]))] == [value(1), value(3)]
    assert journals.was_fetched(old[1]) and not journals.was_fetched(new[1])
    assert not journals.was_fetched(value(1))
    journals.settle(runs_of(old))
    assert journals.advance() == [first] and journals.current is second
    journals.settle(runs_of([*old, *new]))
    assert journals.advance() == [] and second.is_clear
    journals.close()
    assert second.append(value(5)) is None
