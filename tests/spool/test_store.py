"""The store behaves like a list on disk, whatever somebody did to its files."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plumelog_loguru._batch import Batch, BatchId
from plumelog_loguru._spool._database import FILES
from plumelog_loguru._spool._failures import SpoolDamaged, SpoolError, SpoolVanished
from plumelog_loguru._spool._look import look_into
from plumelog_loguru._spool._row import CorruptRow, NewerFormat, RowKey, decode_row, encode_row
from plumelog_loguru._spool._store import Store, import_diskcache


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(path)
    yield store
    store.close()


def _rows(store: Store) -> list[bytes]:
    return [store.read(key) for key in _keys(store)]


def _keys(store: Store) -> list[RowKey]:
    keys, key = [], store.peek()
    while key is not None:
        keys.append(key)
        key = store.peek(key)
    return keys


def _execute(path: Path, statement: str, *parameters: object) -> list[Any]:
    with closing(sqlite3.connect(path / FILES[0], isolation_level=None)) as connection:
        return connection.execute(statement, parameters).fetchall()


class StoreAgainstList(RuleBasedStateMachine):
    """Every sequence of calls leaves the store with what a list would hold."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "spool"
        self.store = Store(self.path)
        self.model: list[tuple[RowKey, bytes]] = []

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @rule(row=st.binary(max_size=50), records=st.integers(0, 9), times=st.sampled_from([1, 1, 1, 130]))
    def append(self, row: bytes, records: int, times: int) -> None:
        for _ in range(times):
            self.model.append((self.store.append(row, records), row))

    @precondition(lambda self: self.model)
    @rule(row=st.binary(max_size=50), data=st.data())
    def replace(self, row: bytes, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.model) - 1))
        self.store.put(self.model[place][0], row)
        self.model[place] = self.model[place][0], row

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def delete_and_peek_behind_it(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.model) - 1))
        key, _ = self.model.pop(place)
        self.store.delete(key)
        self.store.delete(key)
        expected = self.model[place][0] if place < len(self.model) else None
        assert self.store.peek(key) == expected

    @precondition(lambda self: self.model)
    @rule()
    def deliver_the_oldest(self) -> None:
        key = self.store.peek()
        assert key is not None
        assert (key, self.store.read(key)) == self.model.pop(0)
        self.store.delete(key)

    @rule()
    def walk_through(self) -> None:
        assert [(key, self.store.read(key)) for key in _keys(self.store)] == self.model

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store(self.path)

    @invariant()
    def totals_agree(self) -> None:
        keys = [key for key, _ in self.model]
        assert self.store.batches == len(keys)
        assert self.store.records == sum(key.records for key in keys)
        assert self.store.bytes == sum(key.size for key in keys)
        assert self.store.peek() == (keys[0] if keys else None)


StoreAgainstList.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestStoreAgainstList = StoreAgainstList.TestCase


def test_the_settings_are_those_of_a_queue_and_not_of_a_cache(store: Store) -> None:
    """Nothing is evicted, mapped or written to side files: asked of SQLite and of diskcache themselves."""
    pragmas = ("journal_mode", "mmap_size", "cache_size", "wal_autocheckpoint", "synchronous", "auto_vacuum")
    found = {name: store._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas}
    assert found == {
        "journal_mode": "wal",
        "mmap_size": 0,
        "cache_size": 256,
        "wal_autocheckpoint": 256,
        "synchronous": 1,
        "auto_vacuum": 1,
    }
    assert dict(_execute(store.path, "SELECT key, value FROM Settings"))["eviction_policy"] == "none"


def test_settings_of_an_earlier_opener_are_overruled(path: Path) -> None:
    """A database that was told to evict opens with our settings, and loses nothing."""
    Store(path).close()
    _execute(path, "UPDATE Settings SET value = 'least-recently-stored' WHERE key = 'eviction_policy'")
    _execute(path, "UPDATE Settings SET value = 10 WHERE key IN ('cull_limit', 'size_limit')")
    store = Store(path)
    for _ in range(300):
        store.append(b"x" * 4096, 1)
    assert len(_rows(store)) == store.batches == 300
    store.close()


def test_large_rows_stay_inside_the_database(store: Store) -> None:
    """A row of a mebibyte makes no file of its own, which would be lost with the power."""
    store.append(b"x" * (1 << 20), 1)
    assert set(os.listdir(store.path)) <= set(FILES)


class _Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["PLANTED"],)


def test_planted_pickles_never_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle as key or value in a hostile database is neither run nor in the way of the rows around it."""
    monkeypatch.setenv("PLANTED", str(tmp_path / "exploded"))
    store = Store(path)
    store.append(b"first", 1)
    store.append(b"to be replaced", 1)
    store.append(b"last", 1)
    store.close()
    bomb = pickle.dumps(_Bomb())
    _execute(path, "INSERT INTO Cache(key, raw, mode, value) VALUES (?, 0, 0, 'x')", bomb)
    _execute(path, "INSERT INTO Cache(key, raw, mode, value) VALUES (?, 1, 0, 'x')", bomb)
    _execute(path, "UPDATE Cache SET mode = 4, value = ? WHERE key LIKE '%2.1.14'", bomb)
    store = Store(path)
    keys = _keys(store)
    assert (store.batches, store.foreign) == (3, 2)
    with pytest.raises(CorruptRow):
        store.read(keys[1])
    store.pass_by(keys[1])
    assert _rows(store) == [b"first", b"last"]
    store.close()
    look_into(path)
    assert not (tmp_path / "exploded").exists()
    pickle.loads(bomb)
    assert (tmp_path / "exploded").exists(), "the bomb of this test is a dud"


def test_a_row_is_found_also_if_it_was_looked_for_before_it_was_written(store: Store) -> None:
    """A place that was given stays in the order: a row that is written after later looks is not missed."""
    first = store.append(b"first", 1)
    second = store.new_key(2, len(b"second"))
    assert store.peek(first) is None
    store.put(second, b"second")
    third = store.append(b"third", 3)
    assert _keys(store) == [first, second, third]
    assert (store.batches, store.records) == (3, 6)


def test_a_write_that_was_done_though_it_failed_counts_once(path: Path, store: Store) -> None:
    """Whether it is looked for or repeated, such a row is one row, and a place without a row is none."""
    done, not_done = store.new_key(2, 3), store.new_key(5, 3)
    assert store._cache is not None
    store._cache.set(str(done), b"row")
    assert (store.find(done), store.find(done), store.find(not_done)) == (True, True, False)
    store.put(done, b"row")
    assert _keys(store) == [done]
    assert (store.batches, store.records) == (1, 2)
    store.delete(not_done)
    store.delete(done)
    assert (store.batches, store.records) == (0, 0)


def test_only_bytes_go_in(store: Store) -> None:
    """A value or key of any other type is refused before it could be pickled."""
    spool = store._cache
    assert spool is not None
    for key, value in ((1, b""), ("k", "text"), ("k", True), (("k",), b"")):
        with pytest.raises(TypeError):
            spool.set(key, value)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["0000000000000402.1.1", "00000000000000/2.1.1", b"000000000000000\xb2.1.1"])
def test_a_flipped_bit_in_a_key_costs_one_row(path: Path, key: str | bytes) -> None:
    """A damaged key hides its own row, and none of those around it."""
    store = Store(path)
    for row in (b"1", b"2", b"3"):
        store.append(row, 1)
    store.close()
    _flip(path, b"0000000000000002.1.1", key.encode() if isinstance(key, str) else key)
    store = Store(path)
    assert _rows(store) == [b"1", b"3"]
    assert store.foreign == 1
    store.append(b"4", 1)
    assert _rows(store) == [b"1", b"3", b"4"]
    store.close()


def _flip(path: Path, old: bytes, new: bytes) -> None:
    """Change a key in the table's page and leave the index as it was."""
    data = (path / FILES[0]).read_bytes()
    places = [place for place in range(len(data)) if data.startswith(old, place)]
    assert len(places) == 2, "once in the table and once in the index"
    page_size = 4096
    leaf_of_a_table = 13
    place = next(place for place in places if data[place // page_size * page_size] == leaf_of_a_table)
    (path / FILES[0]).write_bytes(data[:place] + new + data[place + len(old) :])


def test_garbage_is_damage_and_not_a_crash(path: Path) -> None:
    """A file that is no database, or no database of ours, is reported as damage."""
    path.mkdir()
    (path / FILES[0]).write_bytes(b"garbage " * 1000)
    with pytest.raises(SpoolDamaged, match="not a database"):
        Store(path)
    (path / FILES[0]).unlink()
    _execute(path, "CREATE TABLE Cache (other TEXT)")
    with pytest.raises(SpoolDamaged):
        Store(path)


@pytest.mark.parametrize("key", ["sqlite_evil; drop", "disk_evil", "sqlite_journal_mode"])
def test_planted_settings_are_damage_or_overruled(path: Path, key: str) -> None:
    """Settings that no diskcache wrote do not crash the opening."""
    Store(path).close()
    _execute(path, "INSERT OR REPLACE INTO Settings VALUES (?, 'off')", key)
    try:
        Store(path).close()
    except SpoolDamaged:
        pass


def test_random_damage_never_raises_anything_else(path: Path) -> None:
    """Whatever bytes of the database are overwritten: rows come back right, or the damage is reported."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    store = Store(path)
    rows = [encode_row(Batch(BatchId("ab", seq), (b"%d" % seq * 500,))) for seq in range(1, 60)]
    for row in rows:
        store.append(row, 1)
    store.close()
    intact = (path / FILES[0]).read_bytes()
    for _ in range(60):
        damaged = bytearray(intact)
        for _ in range(rng.choice([1, 1, 3, 30])):
            place = rng.randrange(len(damaged))
            damaged[place] ^= rng.randrange(1, 256)
        for name in FILES[1:]:
            (path / name).unlink(missing_ok=True)
        (path / FILES[0]).write_bytes(damaged)
        try:
            store = Store(path)
        except SpoolError:
            continue
        try:
            for key in _keys(store):
                try:
                    row = store.read(key)
                    decode_row(row)
                except (CorruptRow, NewerFormat):
                    store.pass_by(key)
                else:
                    assert row in rows
                    store.delete(key)
        except SpoolError:
            pass
        finally:
            store.close()


@pytest.mark.parametrize("how", ["deleted", "replaced", "moved"])
def test_files_that_were_taken_away_are_noticed(path: Path, how: str) -> None:
    """No call succeeds on files that are no longer where they were: SQLite would write into the void."""
    store = Store(path)
    key = store.append(b"row", 3)
    if how == "moved":
        path.rename(path.with_name("elsewhere"))
    else:
        for name in FILES:
            (path / name).unlink(missing_ok=True)
        if how == "replaced":
            (path / FILES[0]).touch()
    append, read, delete = lambda: store.append(b"x", 1), lambda: store.read(key), lambda: store.delete(key)
    for call in (append, read, delete, store.peek):
        with pytest.raises(SpoolVanished):
            call()
    assert store.records == 3
    store.close()


def test_a_lock_of_another_program_costs_a_second_and_no_more(path: Path) -> None:
    """While another program has the database locked, opening and writing fail soon; then they work again."""
    store = Store(path)
    with closing(sqlite3.connect(path / FILES[0], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SpoolError, match="locked"):
            store.append(b"one", 1)
        store.close()
        with pytest.raises(SpoolError, match="locked"):
            Store(path)
    store = Store(path)
    store.append(b"two", 1)
    assert _rows(store) == [b"two"]
    store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are a matter of Unix")
def test_a_full_disk_changes_nothing_and_is_over_when_it_is_over(path: Path) -> None:
    """When the disk is full a write fails cleanly, what is there can be read, and later writes succeed."""
    code = f"""
import resource, signal
from pathlib import Path
from plumelog_loguru._spool._failures import SpoolError
from plumelog_loguru._spool._store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store(Path({str(path)!r}))
written = []
for row in range(10):
    written.append(store.append(b"x" * 5000, 1))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
failed = 0
for row in range(300):
    try:
        written.append(store.append(b"y" * 5000, 1))
    except SpoolError as error:
        failed += 1
        assert store.batches == len(written)
assert failed > 200, failed
assert all(len(store.read(key)) == 5000 for key in written)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
written.append(store.append(b"z" * 5000, 1))
store.close()
store = Store(Path({str(path)!r}))
assert store.batches == len(written), (store.batches, len(written))
for key in written:
    store.delete(key)
assert store.batches == 0
store.close()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=50)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are a matter of Unix")
def test_a_full_disk_is_no_damage_however_large_the_row(path: Path) -> None:
    """A row larger than SQLite's cache fails in its middle, and what it fails by is not taken for damage."""
    code = f"""
import resource, signal
from pathlib import Path
from plumelog_loguru._spool._failures import SpoolDamaged, SpoolError
from plumelog_loguru._spool._store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store(Path({str(path)!r}))
written = [store.append(b"x" * 5000, 1)]
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
for row in range(3):
    try:
        store.append(b"y" * 3_000_000, 1)
    except SpoolError as error:
        assert not isinstance(error, SpoolDamaged), error
        assert "rollback" not in str(error), error
    else:
        raise AssertionError("it was written")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
written.append(store.append(b"z" * 1_200_000, 1))
assert [len(store.read(key)) for key in written] == [5000, 1_200_000]
store.close()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=50)


def test_a_closed_store_stays_closed(store: Store) -> None:
    """A cache of diskcache opens itself again when it is used after a close; the store does not."""
    key = store.append(b"x", 1)
    store.close()
    store.close()
    for call in (lambda: store.append(b"x", 1), lambda: store.read(key), lambda: store.delete(key)):
        with pytest.raises(SpoolError, match="closed"):
            call()
    assert store.records == 1


@pytest.mark.skipif(sys.platform == "win32", reason="rights of files are a matter of Unix")
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
def test_files_are_for_the_owner_alone(path: Path, mask: int) -> None:
    """Directory 0700 and files 0600, whatever the umask and whatever they had before."""
    before = os.umask(mask)
    try:
        store = Store(path)
        store.append(b"x", 1)
        _assert_narrow(path)
        store.close()
        for name in os.listdir(path):
            os.chmod(path / name, 0o666)
        store = Store(path)
        store.append(b"x", 1)
        _assert_narrow(path)
        store.close()
    finally:
        os.umask(before)


def _assert_narrow(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o700
    modes = {name: (path / name).stat().st_mode & 0o777 for name in os.listdir(path)}
    assert modes == dict.fromkeys(FILES, 0o600)


@pytest.mark.parametrize("name", ["", *FILES])
def test_symbolic_links_are_refused(path: Path, tmp_path: Path, name: str) -> None:
    """A link at any of the store's names is not followed, and its target not touched."""
    target = tmp_path / "target"
    if name:
        path.mkdir()
        target.write_bytes(b"precious")
    else:
        target.mkdir()
    (path / name).symlink_to(target)
    with pytest.raises(SpoolError, match="symbolic link"):
        Store(path)
    with pytest.raises(SpoolError, match="symbolic link"):
        look_into(path)
    assert target.read_bytes() == b"precious" if name else not list(target.iterdir())


def _picture(path: Path) -> dict[str, str]:
    return {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in os.listdir(path)}


def test_a_look_from_outside_changes_nothing(path: Path, store: Store) -> None:
    """What a store holds can be seen beside its owner and after it, byte for byte without a trace."""
    for seq in (1, 2, 3):
        store.append(encode_row(Batch(BatchId("ab", seq), (b'{"dtTime":%d}' % seq, b"{}"))), 2)
    for _ in ("beside its owner", "after it"):
        before = _picture(path)
        facts = look_into(path)
        assert (facts.batches, facts.records, facts.bytes) == (3, 6, store.bytes)
        assert (facts.first_ms, facts.last_ms) == (1, None)  # the newest record has no time
        assert {name: value for name, value in _picture(path).items() if not name.endswith("-shm")} == {
            name: value for name, value in before.items() if not name.endswith("-shm")
        }
        store.close()


def test_a_look_at_garbage_is_an_error(path: Path) -> None:
    """What cannot be read is said so."""
    path.mkdir()
    with pytest.raises(SpoolError):
        look_into(path)
    (path / FILES[0]).write_bytes(b"garbage" * 1000)
    with pytest.raises(SpoolError):
        look_into(path)


def test_diskcache_is_imported_late() -> None:
    """Importing the package costs no diskcache; `import_diskcache` brings it."""
    code = (
        "import sys, plumelog_loguru._spool._store as s; assert 'diskcache' not in sys.modules;"
        "s.import_diskcache(); assert 'diskcache' in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    assert import_diskcache() is import_diskcache()
