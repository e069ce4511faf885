"""``verify`` finds whatever is wrong, says what helps, and changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import Part, SpoolDirectory
from plumelog_loguru._spool._facts import FORMATS
from tests.sink.conftest import wait_until

from .conftest import KEY, Replay, Run, assert_schema, batch_of
from .damage import (
    RECORDS,
    Damage,
    Leave,
    each_scene,
    flip,
    left_by_a_killed_process,
    left_by_an_ended_process,
    letter_in,
    old,
    one_by_one,
    replace_with_link,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks on Windows")

DESTINATION = Destination("127.0.0.1:6379", 0, KEY, "left")


def everything_in(path: Path) -> dict[str, tuple[object, ...]]:
    """Names, modes, times and bytes."""
    found: dict[str, tuple[object, ...]] = {}
    for one in sorted(path.rglob("*")):
        facts = one.lstat()
        data = one.read_bytes() if one.is_file() and not one.is_symlink() else b""
        found[str(one)] = facts.st_mode, facts.st_size, facts.st_mtime_ns, data
    return found


@pytest.fixture
def verify(replay: Replay, spool_dir: Path) -> Callable[[], Run]:
    """Runs the command, and sees that it changes nothing."""

    def run() -> Run:
        before = everything_in(spool_dir)
        told = replay("verify", "--json")
        assert_schema("verify", told.json)
        assert everything_in(spool_dir) == before
        assert told.code == bool(told.json["findings"])
        return told

    return run


def test_a_spool_as_processes_leave_it_is_right(spool_dir: Path, verify: Callable[[], Run]) -> None:
    """Of one that was killed, of one that ended, and dead letters: counted, and nothing is wrong."""
    left_by_a_killed_process(spool_dir, DESTINATION)
    left_by_an_ended_process(spool_dir, Destination("redis-b:6379", 0, KEY, "right"))
    letter_in(spool_dir, DESTINATION)
    run = verify()
    assert (run.code, run.err, run.json["findings"]) == (0, "", [])
    assert (run.json["parts"], run.json["batches"]) == (2, 24)
    assert (run.json["records"], run.json["dead_letters"]) == (2 * RECORDS - 4, 1)


def test_an_empty_spool_is_right(spool_dir: Path, verify: Callable[[], Run], replay: Replay) -> None:
    """There is nothing in it that could be wrong."""
    assert verify().code == 0
    assert "intact      0 records, 0 batches in 0 parts; 0 dead letters" in replay("verify").out


def test_a_missing_spool_is_told(replay: Replay) -> None:
    """With the cure, and exit code 2."""
    run = replay("verify")
    assert (run.code, run.out) == (2, "")
    assert "cannot be read (No such file or directory); set PLUMELOG_SPOOL_DIR" in run.err


@each_scene
def test_each_damage_is_found(
    leave: Leave, name: str, damage: Damage, most_lost: int, spool_dir: Path, verify: Callable[[], Run]
) -> None:
    """It is named by its file, and something can be done about it."""
    part, _ = leave(spool_dir, DESTINATION)
    damage(part)
    run = verify()
    assert run.json["findings"], name
    assert all(finding["repairable"] and finding["cure"] for finding in run.json["findings"])
    assert all(finding["path"].startswith(str(part)) for finding in run.json["findings"])
    assert "wrong; 'plumelog-replay repair' shows what it would do about it" in run.err


def test_a_finding_says_what_where_how_many_and_the_cure(spool_dir: Path, replay: Replay) -> None:
    """One line each, without the path that all have in common."""
    part, _ = left_by_an_ended_process(spool_dir, DESTINATION)
    data = (part / "spool/cache.db").read_bytes()
    flip(part / "spool/cache.db", data.index(b"-5-1"))
    run = replay("verify")
    assert run.code == 1
    (line,) = (line for line in run.out.splitlines() if ".db" in line)
    assert line.startswith(f"{part.name}/spool/cache.db, row 0000000000000006.3.")
    assert line.endswith(": the batch is damaged (3 records); repair puts it into quarantine")


LETTER_DAMAGES: dict[str, Damage] = {
    "bit": lambda path: flip(path, 30),
    "cut short": lambda path: os.truncate(path, 40),
    "empty": lambda path: os.truncate(path, 0),
    "link": replace_with_link,
    "directory": one_by_one(lambda path: path.unlink(), lambda path: path.mkdir()),
    "other name": lambda path: path.rename(path.with_name("0" * 32 + ".letter")),
    "half-written": lambda path: old(path.rename(path.with_suffix(".new"))),
    "all behind a link": lambda path: replace_with_link(path.parent),
}


@pytest.mark.parametrize("name", LETTER_DAMAGES)
def test_each_damage_to_a_letter_is_found(name: str, spool_dir: Path, verify: Callable[[], Run]) -> None:
    """Whatever stands in its place."""
    damaged = letter_in(spool_dir, DESTINATION, 1)
    letter_in(spool_dir, DESTINATION, 2)
    LETTER_DAMAGES[name](damaged)
    (finding,) = verify().json["findings"]
    assert finding["repairable"] and finding["part"] is None


def test_what_makers_left_is_found(spool_dir: Path, verify: Callable[[], Run]) -> None:
    """Parts that are half-made or half-removed, without a record; and one that is a link."""
    part, _ = left_by_a_killed_process(spool_dir, DESTINATION)
    (spool_dir / f"new-{'0' * 16}").mkdir()
    (spool_dir / f"part-{'1' * 16}").mkdir()
    (spool_dir / f"part-{'1' * 16}" / "lock").touch()
    (spool_dir / f"part-{'2' * 16}").symlink_to(part)
    assert [Path(finding["path"]).name[:6] for finding in verify().json["findings"]] == [
        "new-00",
        "part-1",
        "part-2",
    ]


def test_what_only_a_person_can_decide_is_told_as_such(
    spool_dir: Path, verify: Callable[[], Run], replay: Replay
) -> None:
    """For which list records are meant that have lost their part.json."""
    part, _ = left_by_a_killed_process(spool_dir, DESTINATION)
    (part / "part.json").write_bytes(b"{}")
    (finding,) = verify().json["findings"]
    assert not finding["repairable"]
    assert "--adopt-unknown" in finding["cure"]
    assert "repair does nothing about it by itself" in replay("verify").err


def test_a_newer_format_is_told_and_left(
    spool_dir: Path, verify: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a part, of a row: it is not checked, and is no damage."""
    part, _ = left_by_a_killed_process(spool_dir, DESTINATION)
    other, _ = left_by_an_ended_process(spool_dir, DESTINATION)
    (part / "part.json").write_text(json.dumps({"format": FORMATS.stop, "else": 1}))
    monkeypatch.setattr("plumelog_loguru._spool._row.FORMAT", 2)
    taken = Part.try_take(other, DESTINATION)
    assert taken is not None
    taken.append(batch_of(b"{}"))
    taken.close()
    monkeypatch.setattr("plumelog_loguru._spool._row.FORMAT", 1)
    findings = verify().json["findings"]
    assert len(findings) == 2
    for finding in findings:
        assert not finding["repairable"] and finding["records"] == 0
        assert "newer version" in finding["cure"] and "format" in finding["what"]
        assert "newer version" not in finding["what"]


def test_what_lies_in_quarantine_is_counted_and_no_fault(spool_dir: Path, verify: Callable[[], Run]) -> None:
    """It was told of when it came there."""
    part, _ = left_by_a_killed_process(spool_dir, DESTINATION)
    (part / "quarantine").mkdir()
    (part / "quarantine" / "1.row").touch()
    run = verify()
    assert (run.code, run.json["quarantined"]) == (0, 1)


def test_a_part_of_another_user_is_told(
    spool_dir: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be checked: that is wrong enough, and the cure is said; the others are checked."""
    part, _ = left_by_a_killed_process(spool_dir, DESTINATION)
    left_by_an_ended_process(spool_dir, DESTINATION)
    list_it = os.listdir

    def refuse(path: str | Path) -> list[str]:
        if Path(path) == part:
            raise PermissionError(13, "Permission denied")
        return list_it(path)

    monkeypatch.setattr(os, "listdir", refuse)
    run = replay("verify", "--json")
    (finding,) = run.json["findings"]
    assert (run.code, finding["repairable"]) == (1, False)
    assert "Permission denied" in finding["what"] and "run the command as the user" in finding["cure"]
    assert run.json["batches"] == 12


LIVING = """
import sys
from pathlib import Path
from loguru import logger
import plumelog_loguru
sink = plumelog_loguru.DurableRedisSink()
logger.remove()
logger.add(sink)
for n in range(500):
    logger.info("record {}", n)
print("ready", flush=True)
while line := sys.stdin.readline():
    for n in range(500):
        logger.info("record {}", n)
    print("more", flush=True)
"""


@contextmanager
def living_sink() -> Iterator[subprocess.Popen[str]]:
    """A real sink whose Redis is away, in a process of its own."""
    environment = {
        **os.environ,
        "PLUMELOG_REDIS_URL": "redis://127.0.0.1:1/0",
        "PLUMELOG_APP_NAME": "living",
        "PLUMELOG_ENV": "test",
        "PLUMELOG_RETRY_MAX": "0",
    }
    with subprocess.Popen(
        [sys.executable, "-c", LIVING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_living_sink_is_not_disturbed_and_nothing_is_wrong(spool_dir: Path, replay: Replay) -> None:
    """While it writes, again and again; and after it was killed."""
    with living_sink() as process:
        assert process.stdin is not None and process.stdout is not None
        wait_until(lambda: bool(list(spool_dir.glob("part-*/spool/cache.db-wal"))))
        for _ in range(15):
            process.stdin.write("more\n")
            process.stdin.flush()
            run = replay("verify", "--json")
            assert (run.code, run.json["findings"], run.json["parts"]) == (0, [], 1)
            assert process.stdout.readline() == "more\n"
        wait_until(lambda: replay("verify", "--json").json["batches"] > 0)
    run = replay("verify", "--json")
    assert run.json["findings"] == []
    # A batch that was in its row, and not yet settled in the journal, is in both.
    assert run.json["records"] >= 16 * 500
    assert replay("list", "--json").json["records"] == 16 * 500


def test_a_damaged_row_of_the_living_is_found_and_theirs_to_put_right(
    spool_dir: Path, replay: Replay
) -> None:
    """It is told, with whose it is."""
    part, _ = left_by_an_ended_process(spool_dir, DESTINATION)
    data = (part / "spool/cache.db").read_bytes()
    flip(part / "spool/cache.db", data.index(b"-5-1"))
    owner = Part.try_take(part, DESTINATION, opened=False)
    assert owner is not None
    try:
        (finding,) = replay("verify", "--json").json["findings"]
        assert (finding["records"], finding["repairable"]) == (3, False)
        assert "its owner" in finding["cure"]
    finally:
        owner.close()


@pytest.mark.needs_root
def test_a_mount_that_is_read_only(spool_dir: Path, replay: Replay, tmp_path: Path) -> None:
    """All is checked all the same."""
    left_by_a_killed_process(spool_dir, DESTINATION)
    part, _ = left_by_a_killed_process(spool_dir, DESTINATION)
    shutil.copytree(part, spool_dir / f"part-{'3' * 16}")
    flip(part / "part.json", 20)
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    subprocess.run(["mount", "--bind", "-o", "ro", spool_dir, mounted], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", mounted], check=True)
        run = replay("verify", "--json", "--spool-dir", str(mounted))
        assert (run.code, run.json["parts"], run.json["records"]) == (1, 3, 3 * RECORDS)
        assert [Path(finding["path"]).name for finding in run.json["findings"]] == ["part.json"]
    finally:
        subprocess.run(["umount", "-l", mounted], check=True)


def test_another_process_takes_a_part_over_meanwhile(
    spool_dir: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What looks damaged because somebody is at it, is looked at again."""
    part, _ = left_by_a_killed_process(spool_dir, DESTINATION)
    flip(part / "part.json", 20)
    owners: list[Part] = []
    from plumelog_loguru._spool import _verification

    check = _verification.check_part

    def take_over(path: Path) -> _verification.Verified:
        seen = check(path)
        if not owners:
            owner = SpoolDirectory(spool_dir, DESTINATION).take_free()
            assert owner is not None
            owners.append(owner)
        return seen

    monkeypatch.setattr(_verification, "check_part", take_over)
    try:
        run = replay("verify", "--json")
        assert (run.code, run.json["findings"]) == (0, [])
    finally:
        owners[0].close()
