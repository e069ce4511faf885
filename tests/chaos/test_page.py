"""The report page without a browser: what is read, what it comes to, what is drawn, what is escaped."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.page import ReportError, Row, Timeline, markdown_table, read_report, write_page
from chaos.page._summary import Cell, compare, summarize
from chaos.page._timeline import HEIGHT, LEFT, RIGHT, WIDTH, draw
from tests.chaos import sample_run

HOSTILE = (
    "</td></script><script>hacked = 1</script><img src=x onerror='hacked = 2'>&lt;\"|`\n\x00\ud800{{ 7 * 7 }}"
)


class Tags(HTMLParser):
    """Every tag with its attributes' names, and all text."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.text = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attributes)))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}",))

    def handle_data(self, text: str) -> None:
        self.text += text


def rows(*made: sample_run.Json) -> list[Row]:
    return [Row.model_validate(one) for one in made]


# ----------------------------------------------------------------------------------------------------- read


@pytest.mark.parametrize("missing", ["results.json", "timelines.json"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    """Without a file of the run there is no page, and the error says which one."""
    (sample_run.write_run(tmp_path) / missing).unlink()
    with pytest.raises(ReportError, match=rf"{missing} is not there; `make chaos` writes it"):
        write_page(tmp_path)
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[", "results.json: Expecting"),
        ("{}", "results.json: the whole: Input should be a valid"),
        (json.dumps([sample_run.row(lost="many")]), "results.json: 0.lost: Input should be a valid integer"),
        (json.dumps([sample_run.row(), {"scenario": "x"}]), "results.json: 1.group: Field required"),
        (json.dumps([sample_run.row(p999_us=float("nan"))]), "results.json: 0.p999_us: .*finite"),
        (json.dumps([sample_run.row(verdict="greenish")]), "results.json: 0.verdict: .*'green', 'red' or"),
    ],
)
def test_a_file_that_is_not_the_runners_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    """The error names the file, the row, the field and what is wrong with it."""
    (sample_run.write_run(tmp_path) / "results.json").write_text(text)
    with pytest.raises(ReportError, match=complaint):
        read_report(tmp_path)


def test_a_timeline_has_a_value_for_each_of_its_seconds(tmp_path: Path) -> None:
    """A series that is too short would be drawn in the wrong place: it is refused."""
    crooked = sample_run.timeline() | {"spooled": [1]}
    sample_run.write_run(tmp_path, timelines={"network/reset 1": crooked})
    with pytest.raises(ReportError, match=r"network/reset 1: .*spooled has 1 values for 80 seconds"):
        read_report(tmp_path)


def test_fields_of_later_versions_are_passed_over(tmp_path: Path) -> None:
    """The runner may say more than the page knows."""
    sample_run.write_run(tmp_path, [sample_run.row(weather="fine")])
    assert [row.scenario for row in read_report(tmp_path).rows] == ["network/lost-reply"]


def test_the_command_writes_the_page_or_says_why_not(tmp_path: Path) -> None:
    """`python -m chaos.page FOLDER` prints the page's path; without a run it says so and ends with 2."""
    command = [sys.executable, "-m", "chaos.page", str(tmp_path)]
    refused = subprocess.run(command, capture_output=True, text=True)
    sample_run.write_run(tmp_path)
    written = subprocess.run(command, capture_output=True, text=True)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert "results.json is not there" in refused.stderr
    assert (written.returncode, written.stdout, written.stderr) == (0, f"{tmp_path / 'index.html'}\n", "")


# -------------------------------------------------------------------------------------------------- summary


def test_the_summary_of_a_run_in_which_all_held() -> None:
    """What a manager reads: nothing lost, nothing doubled, everything held."""
    summary = summarize(rows(sample_run.row(), sample_run.row("server/loading", recovery_seconds=2.5)))
    assert summary.records == "0 of 24,000 records lost, 0 doubled"
    assert (summary.state, summary.scenarios) == ("held", "All 2 scenarios held")
    assert (summary.faults, summary.slowest_recovery_seconds) == (6, 2.5)
    assert (summary.profile, summary.seed) == ("full", str(sample_run.SEED))


def test_what_the_server_lost_and_the_library_reported_is_no_loss_of_the_librarys() -> None:
    """It is counted apart; what is missing beyond the report is lost."""
    summary = summarize(
        rows(
            sample_run.row("server/a", lost=90, reported_lost=90),
            sample_run.row("server/b", lost=12, reported_lost=10, verdict="red"),
            sample_run.row("server/c", lost=5, verdict="red"),
        )
    )
    assert summary.lost == 2 + 5
    assert summary.known_losses == (102, 100)
    assert [row.scenario for row in summary.lost_by_others] == ["server/a", "server/b"]
    assert summary.scenarios == "2 of 3 scenarios failed"


def test_what_did_not_run_is_neither_green_nor_counted() -> None:
    """A run of nothing is no success."""
    idle = sample_run.row(**sample_run.nothing() | {"logged": 7})
    assert (summarize(rows(idle)).state, summarize([]).state) == ("nothing ran", "nothing ran")
    both = summarize(rows(sample_run.row(), idle))
    assert both.scenarios == "The one scenario held, 1 did not run"
    assert both.logged == 12000


def test_many_seeds_are_counted_and_few_are_listed() -> None:
    """A summary stays short."""
    few, many = ([sample_run.row(seed=seed) for seed in range(count)] for count in (3, 70))
    assert summarize(rows(*few)).seed == "0, 1, 2"
    assert summarize(rows(*many)).seed == "70 different"


def test_sinks_are_compared_over_the_scenarios_that_all_of_them_ran() -> None:
    """A total over more scenarios would flatter whoever ran fewer."""
    compared = compare(rows(*sample_run.comparison()))
    assert compared.sinks == ("plumelog-loguru", "plumelog-loguru 0.2.3", "python-logstash-async 4.1.0")
    assert dict(compared.lines)["server/empty-restart"] == (Cell(12000, 90, 90, 0), "not run", None)
    assert compared.shared == 5
    assert compared.totals[1] == Cell(logged=60000, lost=9200, reported=0, doubled=480)


# ------------------------------------------------------------------------------------------------- timeline


def test_a_timeline_is_drawn_with_its_holes() -> None:
    """Where there was no sample a line is interrupted; a sample that stands alone is a dot."""
    picture = draw(
        Timeline(
            seconds=(0, 1, 2, 3, 4),
            logged=(0, 50, 100, 100, 100),
            delivered=(0, 0, 0, 50, 100),
            spooled=(0, None, 20, None, None),
            in_memory=(None,) * 5,
            faults=((1, 3), (3.5, None)),
        )
    )
    assert picture is not None
    (delivered, logged), (spooled, in_memory) = (panel.lines for panel in picture.panels)
    assert logged.path == "M62 168L203.5 99L345 30L486.5 30L628 30"
    assert delivered.path == "M62 168L203.5 168L345 168L486.5 99L628 30"
    assert spooled.path == "M62 282h0M345 204h0"
    assert in_memory.path == ""
    assert picture.faults == ((203.5, 283.0), (557.2, 70.8))
    assert [label for _, label in picture.panels[0].ticks] == ["0", "50", "100"]
    assert [label for _, label in picture.ticks] == ["0 s", "1 s", "2 s", "3 s", "4 s"]
    assert json.loads(picture.samples)[2] == [345.0, "2.00 s", 100, 0, 20, None]
    assert picture.description == (
        "100 records logged, 100 delivered, at most 20 spooled and 0 in memory; "
        "fault: 1.0 s to 3.0 s, 3.5 s to 4.0 s."
    )


def test_no_samples_no_picture() -> None:
    """A scenario that was not watched has none, and the page says so."""
    nothing = Timeline(seconds=(), logged=(), delivered=(), spooled=(), in_memory=())
    assert draw(nothing) is None


@pytest.mark.parametrize(("seconds", "last"), [(3, "3 s"), (300, "5 min"), (36_000, "10 h")])
def test_the_axis_of_time_says_its_unit(seconds: int, last: str) -> None:
    """Seconds, minutes or hours, by how long it took."""
    short = Timeline(seconds=(0, seconds), logged=(0, 1), delivered=(0, 1), spooled=(0, 0), in_memory=(0, 0))
    picture = draw(short)
    assert picture is not None
    assert picture.ticks[-1] == (RIGHT, last)


def test_hours_of_samples_are_thinned_and_keep_their_peak() -> None:
    """A spike of one sample in ten thousand is still drawn, in a picture of bounded size."""
    count = 10_000
    spooled = [0] * count
    spooled[4321] = 777
    flat = tuple(range(count))
    picture = draw(
        Timeline(seconds=flat, logged=flat, delivered=flat, spooled=tuple(spooled), in_memory=(None,) * count)
    )
    assert picture is not None
    samples = json.loads(picture.samples)
    assert len(samples) <= 240
    assert max(sample[4] for sample in samples) == 777
    assert samples[-1][2] == count - 1


_VALUES = st.none() | st.integers(0, 10**9)


@given(
    st.lists(st.tuples(st.floats(0, 1e6), _VALUES, _VALUES, _VALUES, _VALUES), max_size=600),
    st.lists(st.tuples(st.floats(0, 1e6), st.none() | st.floats(0, 1e6)), max_size=3),
)
def test_nothing_is_drawn_outside_the_picture(
    samples: list[tuple[float, int | None, int | None, int | None, int | None]],
    faults: list[tuple[float, float | None]],
) -> None:
    """Whatever was sampled, all lines, ticks and shades lie within the axes."""
    samples.sort(key=lambda sample: sample[0])
    columns = list(zip(*samples, strict=True)) or [()] * 5
    names = ("seconds", "logged", "delivered", "spooled", "in_memory")
    picture = draw(Timeline.model_validate({**dict(zip(names, columns, strict=True)), "faults": faults}))
    if not samples:
        assert picture is None
        return
    assert picture is not None
    for panel in picture.panels:
        for line in panel.lines:
            for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", line.path):
                assert LEFT <= float(x) <= RIGHT
                assert panel.top <= float(y) <= panel.bottom
        assert all(panel.top <= y <= panel.bottom for y, _ in panel.ticks)
        assert 2 <= len(panel.ticks) <= 8
    assert all(LEFT <= x <= RIGHT for x, _ in picture.ticks)
    assert all(width > 0 and LEFT <= x <= x + width <= WIDTH for x, width in picture.faults)
    assert picture.panels[-1].bottom < HEIGHT


# ----------------------------------------------------------------------------------------------------- page


def test_hostile_text_makes_no_element_and_no_attribute(tmp_path: Path) -> None:
    """With the worst text in every place the page has the tags of a harmless page, and no other."""
    pages: list[Tags] = []
    for text in ("harmless", HOSTILE):
        folder = tmp_path / f"{len(pages)}"
        folder.mkdir()
        words = ("scenario", "group", "fault", "promise", "proxy", "server", "sink", "repeat", "profile")
        hostile = sample_run.row(
            **dict.fromkeys(words, text), proofs=[text], violations=[text], verdict="red"
        )
        known = hostile | {"lost": 2, "reported_lost": 1}
        sample_run.write_run(folder, [known], compared=False)
        (folder / "comparison.json").write_text(json.dumps([hostile, hostile | {"sink": text + "2"}]))
        pages.append(Tags(write_page(folder)))
    harmless, hostile_page = pages
    assert [tag for tag in hostile_page.tags if tag != ("wbr",)] == harmless.tags
    assert "<script>hacked = 1</script>" in hostile_page.text
    assert "{{ 7 * 7 }}" in hostile_page.text


def test_tags_are_balanced(tmp_path: Path) -> None:
    """Each element is closed where it was opened."""
    empty = {"meta", "link", "input", "wbr"}
    drawn = {"path", "rect"}  # closed in one: <path/>
    open_tags: list[str] = []
    for tag, *_ in Tags(write_page(sample_run.write_run(tmp_path))).tags:
        if tag.startswith("/"):
            if tag[1:] not in drawn:
                assert open_tags.pop() == tag[1:]
        elif tag not in empty | drawn:
            open_tags.append(tag)
    assert open_tags == []


@pytest.mark.parametrize("compared", [True, False])
def test_an_empty_run_has_a_page(tmp_path: Path, compared: bool) -> None:
    """It says that nothing ran, in as many words."""
    sample_run.write_run(tmp_path, [], compared=False)
    if compared:
        (tmp_path / "comparison.json").write_text("[]")
    text = Tags(write_page(tmp_path)).text
    assert "No scenario ran" in text
    assert "Side by side" not in text


def test_the_page_names_no_address_of_any_network(tmp_path: Path) -> None:
    """Nothing in it points out of it, and its policy would allow nothing of the sort."""
    text = write_page(sample_run.write_run(tmp_path)).read_text(encoding="utf-8")
    assert re.findall(r"""(?:https?:)?//[\w.]+|@import|url\((?!#)""", re.sub(r"//[^\n]*\n", "", text)) == []
    assert "default-src &#39;none&#39;" in text


# ------------------------------------------------------------------------------------------------- markdown


def test_the_markdown_table_of_a_run(tmp_path: Path) -> None:
    """A line about the run, and one for each scenario, with nothing that Markdown would take for its own."""
    sample_run.write_run(
        tmp_path,
        [
            sample_run.row(promise="a|b\n<c>"),
            sample_run.row("server/empty_restart", lost=90, reported_lost=90),
            sample_run.row("disk/eio", **sample_run.nothing()),
        ],
    )
    noon = datetime(2026, 11, 22, 12, tzinfo=timezone.utc).timestamp()
    os.utime(tmp_path / "results.json", (noon, noon))
    lines = markdown_table(read_report(tmp_path)).splitlines()
    assert lines[0] == (
        "2026-11-22, profile full, seed 20261122, proxy toxiproxy 2.12.0, server redis 7.0.15: "
        "All 2 scenarios held, 1 did not run; 0 of 24,000 records lost, 0 doubled."
    )
    assert lines[2] == (
        "| scenario | what must hold | logged | lost | doubled | faults | recovery | verdict |"
    )
    assert lines[4] == (r"| network/lost-reply | a\|b \<c\> | 12,000 | 0 | 0 | 3 | 0.8 s | green |")
    assert r"| server/empty\_restart |" in lines[5]
    assert "| 12,000 | 90, all reported | 0 |" in lines[5]
    assert lines[6].endswith("|  |  |  |  |  | not run |")
    assert len(lines) == 7
