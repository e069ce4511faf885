"""A scenario sees what only its programs' end shows, and logs for each sink what that can be judged by."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos import performance
from chaos.faults.network import Refused
from chaos.scenario import Scenario
from chaos.setting import open_setting

_SHORT = Scenario("network/test", "Nothing is lost.", Refused(), seconds=0.5)


@pytest.mark.timeout(120)
def test_a_program_that_takes_too_long_to_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond what its settings give to closing, and some grace: here there is less than none."""
    monkeypatch.setattr(performance, "_GRACE_SECONDS", -3.0)
    with open_setting("quick") as setting:
        late = performance.perform(replace(_SHORT, settings={"CLOSE_TIMEOUT_SECONDS": "3"}), 1, setting)
        timely = performance.perform(replace(_SHORT, settings={"CLOSE_TIMEOUT_SECONDS": "30"}), 1, setting)
        bare = replace(setting, sink="another")
        assert [each.content_of(_SHORT) for each in (setting, bare)] == ["plain", "message only"]
    assert late.verdict == "red" and "to end, of 3.0" in late.violations[0]
    assert timely.verdict == "green", timely.violations
