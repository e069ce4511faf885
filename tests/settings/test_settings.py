"""Reading, checking and showing the settings."""

from __future__ import annotations

import copy
import json
import os
import pickle
import pwd
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import platformdirs
import pytest
from pydantic import SecretStr

from plumelog_loguru import _settings
from plumelog_loguru._destination import Destination, Endpoint
from plumelog_loguru._errors import SettingsError
from plumelog_loguru._setting_types import default_spool_dir, local_address
from plumelog_loguru._settings import OLD_NAMES, PlumelogSettings, SettingsKeywords

if TYPE_CHECKING:
    from typing_extensions import Self

FIELDS = PlumelogSettings.model_fields


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """A file that can be read, as far as the settings look."""
    path = tmp_path / "some.pem"
    path.write_text("certificate")
    return path


def settings_of(**values: Any) -> PlumelogSettings:
    """Build settings as a caller without type checker does."""
    return PlumelogSettings(**values)


def complaint_about(**values: Any) -> str:
    """The message with which these settings are refused."""
    with pytest.raises(SettingsError) as caught:
        settings_of(**values)
    return str(caught.value)


class TestDefaults:
    """What holds when nothing is said."""

    def test_whole_table(self) -> None:
        """The defaults are exactly those that users rely on."""
        found = PlumelogSettings().model_dump(exclude={"server_name", "spool_dir"})
        assert found == {
            "app_name": "default",
            "env": "dev",
            "redis_host": "localhost",
            "redis_port": 6379,
            "redis_db": 0,
            "redis_password": None,
            "redis_key": "plume_log_list",
            "batch_size": 100,
            "batch_interval_seconds": 2.0,
            "queue_max_size": 10000,
            "retry_count": 3,
            "max_connections": 10,
            "temp_buffer_max_size": 1000,
            "redis_url": None,
            "redis_username": None,
            "redis_ssl_ca_file": None,
            "redis_ssl_cert_file": None,
            "redis_ssl_key_file": None,
            "connect_timeout_seconds": 5.0,
            "socket_timeout_seconds": 5.0,
            "retry_backoff_base_seconds": 0.5,
            "retry_backoff_max_seconds": 30.0,
            "health_check_interval_seconds": 1.0,
            "redis_push_side": "left",
            "delivery": "exactly_once",
            "lane_ttl_seconds": 604800,
            "durability": "journal",
            "queue_max_bytes": 64 * 1024 * 1024,
            "journal_max_bytes": 16 * 1024 * 1024,
            "max_content_chars": 65536,
            "record_max_bytes": 1024 * 1024,
            "extra_fields": "all",
            "level_map": {0: "DEBUG", 20: "INFO", 30: "WARN", 40: "ERROR"},
            "producer_field": "producer",
            "spool_max_bytes": 1024 * 1024 * 1024,
            "spool_min_free_bytes": 64 * 1024 * 1024,
            "spool_max_age_seconds": 0.0,
            "spool_full_policy": "drop_oldest",
            "spool_fsync": False,
            "block_timeout_seconds": 1.0,
            "replay_rate": 0,
            "close_timeout_seconds": 5.0,
        }

    def test_keywords_for_type_checkers(self) -> None:
        """The keywords that type checkers know are the fields, in their order, and the old names."""
        assert list(SettingsKeywords.__annotations__) == [*FIELDS, *OLD_NAMES, "_env_file"]

    def test_instances_share_nothing(self) -> None:
        """The default level map of one instance is not that of another."""
        assert PlumelogSettings().level_map is not PlumelogSettings().level_map


class TestPrecedence:
    """Keyword, environment, ``.env``, default: the first that speaks wins."""

    def test_order(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Each source yields to the one before it."""
        (tmp_path / ".env").write_text("PLUMELOG_APP_NAME=file\nPLUMELOG_ENV=file\nPLUMELOG_REDIS_KEY=file\n")
        monkeypatch.setenv("PLUMELOG_APP_NAME", "environment")
        monkeypatch.setenv("PLUMELOG_ENV", "environment")
        settings = PlumelogSettings(app_name="keyword")
        assert (settings.app_name, settings.env, settings.redis_key) == ("keyword", "environment", "file")

    def test_names_in_any_case(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Variables are found in lower case, too, as the earlier library found them."""
        monkeypatch.setenv("plumelog_app_name", "shop")
        assert PlumelogSettings().app_name == "shop"

    def test_foreign_keys_in_env_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Other people's keys in .env, even a setting's bare name, change nothing and are not spoken of."""
        (tmp_path / ".env").write_text(
            "DATABASE_URL=x\nENV=prod\nBATCH_SIZE=no number\nSOCKET_TIMEOUT=9\nbare\n"
        )
        assert PlumelogSettings() == PlumelogSettings(_env_file=None)
        assert capsys.readouterr().err == ""

    def test_env_file_in_utf8(self, tmp_path: Path) -> None:
        """Text beyond ASCII is read as UTF-8 on every platform."""
        (tmp_path / ".env").write_bytes("PLUMELOG_APP_NAME=商店\n".encode())
        assert PlumelogSettings().app_name == "商店"

    def test_env_file_in_another_encoding(self, tmp_path: Path) -> None:
        """A .env that is not UTF-8 is named as such."""
        (tmp_path / ".env").write_bytes("PLUMELOG_APP_NAME=商店\n".encode("gb18030"))
        assert ".env file must be readable UTF-8" in complaint_about()

    def test_empty_variable_is_not_set(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """An empty variable leaves the default and hides nothing, as ${VAR:-} in a compose file means it."""
        (tmp_path / ".env").write_text("PLUMELOG_BATCH_SIZE=7\n")
        monkeypatch.setenv("PLUMELOG_BATCH_SIZE", "")
        monkeypatch.setenv("PLUMELOG_REDIS_PASSWORD", "")
        settings = PlumelogSettings()
        assert (settings.batch_size, settings.redis_password) == (7, None)

    def test_empty_producer_field_is_a_value(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An empty producer_field leaves the field out, so in the environment, too, it counts as set."""
        monkeypatch.setenv("PLUMELOG_PRODUCER_FIELD", "")
        assert PlumelogSettings().producer_field == ""

    def test_switches_in_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A switch is written as people write one."""
        for text, found in (("true", True), ("1", True), ("False", False), ("off", False)):
            monkeypatch.setenv("PLUMELOG_SPOOL_FSYNC", text)
            assert PlumelogSettings().spool_fsync is found

    def test_lists_and_maps_in_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is a list or a map as a keyword can be written into a variable."""
        monkeypatch.setenv("PLUMELOG_LEVEL_MAP", '{"20": "INFO", "0": "LOW"}')
        for text, names in (
            ("all", "all"),
            ("none", "none"),
            ("orderId", ("orderId",)),
            ("orderId, user", ("orderId", "user")),
            ('["orderId", "user"]', ("orderId", "user")),
        ):
            monkeypatch.setenv("PLUMELOG_EXTRA_FIELDS", text)
            settings = PlumelogSettings()
            assert settings.extra_fields == names
            assert settings.level_map == {0: "LOW", 20: "INFO"}


class TestOldNames:
    """Applications of the earlier library run unchanged."""

    @pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
    def test_each_way_in(self, old: str, new: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """An old name works as keyword, as variable, in .env and as attribute; the keyword wins as ever."""
        (tmp_path / ".env").write_text(f"PLUMELOG_{old.upper()}=7\n")
        assert getattr(PlumelogSettings(), new) == 7
        monkeypatch.setenv(f"PLUMELOG_{old.upper()}", "8")
        assert getattr(PlumelogSettings(), new) == 8
        settings = settings_of(**{old: 9})
        assert getattr(settings, new) == getattr(settings, old) == 9

    @pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
    def test_new_name_wins(self, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where one source gives both names, the new one counts."""
        assert getattr(settings_of(**{new: 2, old: 9}), new) == 2
        monkeypatch.setenv(f"PLUMELOG_{old.upper()}", "9")
        monkeypatch.setenv(f"PLUMELOG_{new.upper()}", "2")
        assert getattr(PlumelogSettings(), new) == 2

    def test_long_first_delay(self) -> None:
        """A first delay above today's longest raises the longest, since only the first could be set then."""
        settings = PlumelogSettings(retry_delay=60)
        assert (settings.retry_backoff_base_seconds, settings.retry_backoff_max_seconds) == (60, 60)

    def test_password_as_text(self) -> None:
        """A password may be given as plain text."""
        assert PlumelogSettings(redis_password="hunter").redis_password == SecretStr("hunter")

    def test_error_names_the_old_variable(self) -> None:
        """Who set the old variable finds its name in the complaint."""
        assert "PLUMELOG_RETRY_DELAY" in complaint_about(retry_delay="soon")


class TestRefusals:
    """What can never work is refused at once, in one sentence with the cure."""

    def test_one_sentence(self) -> None:
        """A complaint names the setting, its variable, the value and what is accepted."""
        assert complaint_about(batch_size=0) == (
            "batch_size (PLUMELOG_BATCH_SIZE) is 0, but must be a whole number from 1 to 2147483647."
        )
        assert complaint_about(redis_push_side="up") == (
            'redis_push_side (PLUMELOG_REDIS_PUSH_SIDE) is \'up\', but must be "left" or "right".'
        )
        assert complaint_about(spool_fsync="perhaps") == (
            "spool_fsync (PLUMELOG_SPOOL_FSYNC) is 'perhaps', but must be true or false."
        )
        assert complaint_about(socket_timeout_seconds="soon") == (
            "socket_timeout_seconds (PLUMELOG_SOCKET_TIMEOUT_SECONDS, earlier PLUMELOG_SOCKET_TIMEOUT) "
            "is 'soon', but must be a number above 0 to 1000000."
        )

    def test_several_at_once(self) -> None:
        """Several wrong settings are told in one go, a sentence each."""
        text = complaint_about(batch_size=0, redis_port="a", extra_fields=3)
        assert [
            name for name in ("batch_size", "redis_port", "extra_fields") if f"{name} (" not in text
        ] == []
        assert text.count(" but must be ") == 3

    @pytest.mark.parametrize(
        "values",
        [
            {"app_name": 5},
            {"redis_host": ""},
            {"redis_host": "cache:6379"},
            {"redis_port": 0},
            {"redis_port": 65536},
            {"redis_db": -1},
            {"redis_key": ""},
            {"redis_key": "\udc80"},
            {"redis_username": "\udc80"},
            {"batch_size": 1.5},
            {"batch_size": None},
            {"batch_interval_seconds": 0},
            {"batch_interval_seconds": float("nan")},
            {"close_timeout_seconds": float("inf")},
            {"close_timeout_seconds": -1},
            {"retry_count": -1},
            {"queue_max_size": 0},
            {"replay_rate": -1},
            {"lane_ttl_seconds": 0},
            {"delivery": "twice"},
            {"record_max_bytes": 1023},
            {"record_max_bytes": 1024 * 1024 + 1},
            {"queue_max_bytes": 4096},
            {"spool_max_bytes": 4096},
            {"spool_full_policy": "panic"},
            {"durability": "disk"},
            {"journal_max_bytes": 2**16 - 1},
            {"journal_max_bytes": 2**30 + 1},
            {"spool_min_free_bytes": -1},
            {"spool_max_age_seconds": -1},
            {"spool_max_age_seconds": float("inf")},
            {"spool_fsync": "perhaps"},
            {"spool_dir": "a\0b"},
            {"retry_backoff_base_seconds": 5, "retry_backoff_max_seconds": 4},
            {"level_map": {}},
            {"level_map": {20: "INFO"}},
            {"level_map": {0: ""}},
            {"level_map": {-1: "LOW", 0: "DEBUG"}},
            {"level_map": "DEBUG"},
            {"level_map": "[1]"},
            {"extra_fields": 3},
            {"extra_fields": [1]},
            {"extra_fields": "[orderId]"},
            {"redis_ssl_ca_file": "/nowhere/ca.pem", "redis_url": "rediss://cache"},
            {"redis_ssl_ca_file": "/", "redis_url": "rediss://cache"},
            {"redis_url": "redis://:\udc80@cache"},
        ],
        ids=str,
    )
    def test_values(self, values: dict[str, Any]) -> None:
        """Each of these is refused with its name and its variable, as one line that ends a sentence."""
        text = complaint_about(**values)
        assert any(f"{name} (PLUMELOG_{name.upper()}" in text for name in values)
        assert "must" in text
        assert text.endswith(".")
        assert "\n" not in text

    def test_long_value_is_cut(self) -> None:
        """A value of any length leaves the complaint readable."""
        assert len(complaint_about(redis_port="x" * 10_000)) < 300

    def test_unknown_keyword(self) -> None:
        """A mistyped keyword is refused with the nearest name, and its value is not repeated."""
        assert complaint_about(redis_pasword="hunter") == (
            "redis_pasword is not a setting; the nearest is redis_password."
        )
        assert complaint_about(zzz=1) == "zzz is not a setting."

    def test_is_a_value_error(self) -> None:
        """Callers may catch it as the ValueError that it is."""
        with pytest.raises(ValueError, match="batch_size"):
            settings_of(batch_size=0)

    def test_tls_files_without_tls(self, pem: Path) -> None:
        """A TLS file with a plain connection would protect nothing, so it is refused with the cure."""
        assert "rediss://" in complaint_about(redis_ssl_ca_file=pem)
        assert "rediss://" in complaint_about(redis_ssl_ca_file=pem, redis_url="redis://cache")
        assert (
            PlumelogSettings(redis_ssl_ca_file=pem.name, redis_url="rediss://cache").redis_ssl_ca_file == pem
        )

    @pytest.mark.parametrize("given", ["redis_ssl_cert_file", "redis_ssl_key_file"])
    def test_half_a_client_certificate(self, given: str, pem: Path) -> None:
        """A certificate without its key, or a key without its certificate, names what is missing."""
        text = complaint_about(**{given: pem, "redis_url": "rediss://cache"})
        missing = {"redis_ssl_cert_file", "redis_ssl_key_file"} - {given}
        assert text.startswith(f"{missing.pop()} (")

    def test_frozen(self) -> None:
        """Settings do not change under those who read them."""
        with pytest.raises(ValueError, match="frozen"):
            PlumelogSettings().batch_size = 5


class TestSecrets:
    """No password in anything that people or files get to see."""

    @pytest.mark.parametrize(
        "values",
        [
            {"redis_password": "hunter2"},
            {"redis_url": "redis://bob:hunter2@cache/1"},
            {"redis_url": "unix://:hunter2@/run/redis.sock"},
        ],
    )
    def test_shown_nowhere(self, values: dict[str, Any]) -> None:
        """Not in repr, str, dumps, endpoint or destination; yet the endpoint can connect with it."""
        settings = settings_of(**values)
        shown = [
            repr(settings),
            str(settings),
            str(settings.model_dump()),
            settings.model_dump_json(),
            repr(settings.endpoint),
            repr(settings.destination),
            str(settings.destination),
            json.dumps(settings.destination.to_json()),
        ]
        assert [text for text in shown if "hunter2" in text] == []
        assert settings.endpoint.password == "hunter2"

    @pytest.mark.parametrize(
        "values",
        [
            {"redis_password": ["hunter2"]},
            {"redis_password": b"hunter2\xff"},
            {"redis_password": "hunter2\udc80"},
            {"redis_password": "hunter2", "batch_size": 0},
            {"redis_password": "hunter2", "queue_max_bytes": 1024},
            {"redis_url": "http://bob:hunter2@cache"},
            {"redis_url": "redis://bob:hunter2"},
            {"redis_url": "redis://bob:hunter2@cache", "batch_size": 0},
            {"redis_url": ["hunter2"]},
            {"redis_host": "redis://bob:hunter2@cache"},
            {"redis_host": "bob:hunter2@cache"},
        ],
        ids=str,
    )
    def test_no_error_tells(self, values: dict[str, Any]) -> None:
        """A refusal repeats no password, not even one in the wrong setting, and drags no chain along."""
        with pytest.raises(SettingsError) as caught:
            settings_of(**values)
        assert "hunter2" not in str(caught.value)
        assert "hunter2" not in repr(caught.value.__context__)
        assert caught.value.__suppress_context__

    def test_unknown_variable_keeps_its_value(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A mistyped password variable is spoken of by its name only."""
        monkeypatch.setenv("PLUMELOG_REDIS_PASSWORT", "hunter2")
        PlumelogSettings()
        assert "hunter2" not in capsys.readouterr().err

    def test_pickle_carries_it(self) -> None:
        """A pickle does carry the password: the process that unpickles it must connect."""
        settings = PlumelogSettings(redis_password="hunter2")
        assert pickle.loads(pickle.dumps(settings)) == copy.deepcopy(settings) == settings


class TestUnknownVariables:
    """A mistyped variable would silently have no effect, so it is spoken of."""

    def test_once_by_name_with_the_nearest(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Each unknown name, also in .env, is told once in a process, with the nearest known one."""
        (tmp_path / ".env").write_text("PLUMELOG_BATCHSIZE=7\n")
        monkeypatch.setenv("PLUMELOG_REDIS_HOTS", "cache")
        monkeypatch.setenv("PLUMELOG_ZZZ", "1")
        PlumelogSettings()
        PlumelogSettings()
        assert sorted(capsys.readouterr().err.splitlines()) == [
            "plumelog-loguru: PLUMELOG_BATCHSIZE has no effect; did you mean PLUMELOG_BATCH_SIZE?",
            "plumelog-loguru: PLUMELOG_REDIS_HOTS has no effect; did you mean PLUMELOG_REDIS_HOST?",
            "plumelog-loguru: PLUMELOG_ZZZ has no effect; no setting has such a name.",
        ]

    def test_known_ones(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """Settings, old names and the switch of the diagnostics are known."""
        monkeypatch.setenv("PLUMELOG_DIAGNOSTICS", "stderr")
        monkeypatch.setenv("PLUMELOG_RETRY_DELAY", "1")
        monkeypatch.setenv("PLUMELOG_APP_NAME", "shop")
        PlumelogSettings()
        assert capsys.readouterr().err == ""


class TestWhereRecordsGo:
    """Endpoint and destination follow from URL, host, port, database, user and password."""

    def test_without_url(self) -> None:
        """Host, port and database name the server."""
        settings = PlumelogSettings(redis_host="Cache", redis_port=7000, redis_db=2, redis_push_side="right")
        assert settings.destination == Destination("cache:7000", 2, "plume_log_list", "right")

    def test_url_wins(self) -> None:
        """A URL decides server and database alone, also where it leaves both to their defaults."""
        settings = PlumelogSettings(
            redis_host="other", redis_port=7000, redis_db=2, redis_url="redis://cache"
        )
        assert settings.endpoint == Endpoint("cache", 6379, db=0)

    def test_credentials_beside_the_url(self) -> None:
        """User and password may stand in settings of their own; where the URL has them, it wins."""
        settings = PlumelogSettings(redis_url="rediss://cache", redis_username="bob", redis_password="one")
        assert settings.endpoint == Endpoint("cache", tls=True, username="bob", password="one")
        both = settings.with_changes(redis_url="rediss://eve:two@cache")
        assert (both.endpoint.username, both.endpoint.password) == ("eve", "two")

    def test_url_with_a_line_break(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The line break that a mounted secret ends with does no harm."""
        monkeypatch.setenv("PLUMELOG_REDIS_URL", "redis://cache/1\n")
        assert PlumelogSettings().destination.server == "cache:6379"

    def test_blank_url_is_none(self) -> None:
        """A blank URL counts as none."""
        assert PlumelogSettings(redis_url=" ").redis_url is None


class TestChanges:
    """Settings that differ in single values."""

    def test_only_what_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A change leaves all else as it is, whatever the environment says by then."""
        settings = PlumelogSettings(app_name="shop", redis_password="hunter2")
        monkeypatch.setenv("PLUMELOG_BATCH_SIZE", "7")
        changed = settings.with_changes(retry_delay=3)
        assert changed.model_dump() == {**settings.model_dump(), "retry_backoff_base_seconds": 3.0}

    def test_derived_defaults_follow(self) -> None:
        """What follows from other settings follows them, unless it was given."""
        settings = PlumelogSettings(app_name="shop").with_changes(app_name="bank", retry_delay=60)
        assert settings.spool_dir == default_spool_dir("bank", "dev")
        assert settings.retry_backoff_max_seconds == 60
        given = PlumelogSettings(spool_dir="/spool", retry_backoff_max_seconds=9).with_changes(
            app_name="bank"
        )
        assert (given.spool_dir, given.retry_backoff_max_seconds) == (Path("/spool"), 9)

    def test_checked_again(self) -> None:
        """A change is checked like the whole."""
        with pytest.raises(SettingsError, match="retry_backoff_max_seconds"):
            PlumelogSettings().with_changes(retry_backoff_max_seconds=0.1)


class TestSpoolDirectory:
    """Where the spool lies."""

    @pytest.mark.parametrize(
        ("name", "component"),
        [
            ("shop-1.2_x", "shop-1.2_x"),
            ("a/b c", "a_b_c"),
            ("../../etc", "______etc"),
            ("..", "__"),
            (".", "_"),
            ("", "_"),
            ("a...b", "a___b"),
            ("商店", "__"),
            ("nul\0", "nul_"),
            ("x" * 300, "x" * 100),
        ],
    )
    def test_component(self, name: str, component: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A name of an application becomes one harmless path component."""
        monkeypatch.setenv("XDG_STATE_HOME", "/state")
        assert default_spool_dir(name, "dev") == Path("/state/plumelog-loguru", component, "dev")

    def test_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By default it lies below the user's state directory, by application and environment."""
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        monkeypatch.setenv("HOME", "/home/ann")
        settings = PlumelogSettings(app_name="shop", env="prod")
        assert settings.spool_dir == Path("/home/ann/.local/state/plumelog-loguru/shop/prod")

    @pytest.mark.parametrize("platformdirs_raises", [True, False])
    def test_without_a_home(self, platformdirs_raises: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """A user without a home has no default directory, and construction goes on, with any platformdirs."""

        def no_such_user(_: int) -> None:
            raise KeyError

        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr(pwd, "getpwuid", no_such_user)
        if not platformdirs_raises:  # as older versions do not
            monkeypatch.setattr(platformdirs, "user_state_dir", lambda *_, **__: "~/.local/state")
        assert PlumelogSettings().spool_dir is None

    def test_given_one_is_absolute_at_once(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A relative directory, or one below ~, is fixed at once: a daemon changes its directory later."""
        monkeypatch.setenv("HOME", "/home/ann")
        assert PlumelogSettings(spool_dir="spool/../x").spool_dir == tmp_path / "x"
        assert PlumelogSettings(spool_dir="~/spool").spool_dir == Path("/home/ann/spool")

    def test_nothing_is_made(self, tmp_path: Path) -> None:
        """Settings create no directory, and a directory that cannot be one is not their complaint."""
        (tmp_path / "file").touch()
        assert (
            PlumelogSettings(spool_dir=tmp_path / "file" / "spool").spool_dir == tmp_path / "file" / "spool"
        )
        assert os.listdir(tmp_path) == ["file"]


class FakeSocket:
    """A UDP socket in a network that has routes for some families only."""

    routes: ClassVar[dict[int, str]] = {}

    def __init__(self, family: int, _: int) -> None:
        self.family = family

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def connect(self, _: object) -> None:
        if self.family not in self.routes:
            raise OSError("Network is unreachable")

    def getsockname(self) -> tuple[str, int]:
        return self.routes[self.family], 4711


class TestServerName:
    """The host's address, found without asking anyone."""

    @pytest.mark.parametrize(
        ("routes", "found"),
        [
            ({socket.AF_INET: "192.0.2.2", socket.AF_INET6: "2001:db8::2"}, "192.0.2.2"),
            ({socket.AF_INET6: "2001:db8::2"}, "2001:db8::2"),
            ({}, "host-7"),
        ],
        ids=["both", "IPv6 only", "no route"],
    )
    def test_found(self, routes: dict[int, str], found: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The address of the route, of IPv4 first; without a route the host's name; never a look-up."""

        def no_lookup(*_: object) -> None:
            raise AssertionError("asked a name server")

        monkeypatch.setattr(FakeSocket, "routes", routes)
        monkeypatch.setattr(socket, "socket", FakeSocket)
        monkeypatch.setattr(socket, "gethostname", lambda: "host-7")
        for name in ("getaddrinfo", "gethostbyname", "getfqdn", "gethostbyaddr"):
            monkeypatch.setattr(socket, name, no_lookup)
        assert local_address.__wrapped__() == found

    def test_given(self) -> None:
        """In Kubernetes an address says nothing, so it can be given."""
        assert PlumelogSettings(server_name="pod-1").server_name == "pod-1"
        assert PlumelogSettings().server_name == local_address()


def test_where_warnings_are_errors() -> None:
    """Under -W error the import and the settings, with unknown and old names, raise nothing."""
    code = "from plumelog_loguru._settings import PlumelogSettings as S; S(level_map={0: 'X'}, retry_delay=1)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(_settings.__file__).parents[1]), "PLUMELOG_ZZZ": "1"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("plumelog-loguru: PLUMELOG_ZZZ")
