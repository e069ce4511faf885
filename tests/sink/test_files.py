"""What lies in the spool directory: for its owner alone, and without a secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from loguru import logger

from lab.servers import RedisServer
from plumelog_loguru._spool import Part, SpoolDamaged

from .conftest import MakeSink

SECRET = b"hunter2-Geheimnis"


@pytest.mark.parametrize("mask", [0o000, 0o777])
def test_directories_and_files(
    mask: int, make_sink: MakeSink, own_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the umask, all of them are 0700 and 0600: journal, spool, room kept free, and quarantine."""
    append, damaged = Part.append, [SpoolDamaged("malformed")]

    def once_damaged(part: Part, *arguments: object, **more: object) -> None:
        append(part, *arguments, **more)  # type: ignore[arg-type]
        if damaged:
            raise damaged.pop()

    monkeypatch.setattr(Part, "append", once_damaged)
    own_server.stop()
    before = os.umask(mask)
    try:
        sink = make_sink(own_server.url, redis_password=SECRET.decode())
        logger.add(sink, format="{message}")
        for n in range(3):
            logger.info(f"record {n}")
            assert sink.drain(10).spooled == n + 1
        paths = [tmp_path / "spool", *(tmp_path / "spool").rglob("*")]
        modes = {path: path.lstat().st_mode & 0o777 for path in paths}
        contents = {path: path.read_bytes() for path in paths if path.is_file()}
        sink.close()
    finally:
        os.umask(before)
    assert modes == {path: 0o700 if path.is_dir() else 0o600 for path in modes}
    assert {"part.json", "lock", "quarantine", "cache.db"} <= {path.name for path in paths}
    assert [path for path, data in contents.items() if SECRET in data] == []
    assert any(b"record 1" in data for data in contents.values()), "one looks for it where it could be"
    after = [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]
    assert [path for path in after if SECRET in path.read_bytes()] == []
