"""The report page in a real browser: its links, its keys, its looks, and that it asks no network anything."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chaos.page import write_page
from tests.chaos import sample_run
from tests.chaos.browser import Browser, command

pytestmark = pytest.mark.needs_chromium

ROWS = {row["scenario"]: row for row in sample_run.rows()}
RAN = {name: row for name, row in ROWS.items() if row["verdict"] != "not run"}

# What a reader sees of the table, from top to bottom.
SHOWN = """[...document.querySelectorAll("#scenarios tbody")].filter((one) => one.checkVisibility())
    .map((one) => one.dataset.key.split(" ")[0])"""

# Every text on the page that stands out too little from what is behind it: [contrast, text].
PALE = """(() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => parts(colour).slice(0, 3).map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (one) => {
    const colour = getComputedStyle(one).backgroundColor;
    return (parts(colour)[3] ?? 1) > 0 ? colour : behind(one.parentElement);
  };
  return [...document.querySelectorAll("main *")]
    .filter((one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .filter((one) => one.checkVisibility())
    .map((one) => {
      const style = getComputedStyle(one);
      const [a, b] = [light(one instanceof SVGElement ? style.fill : style.color), light(behind(one))];
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), one.textContent];
    })
    .filter(([contrast]) => contrast < 4.5);
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(sample_run.write_run(tmp_path_factory.mktemp("report")))


@pytest.fixture(scope="module")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(_browser: Browser) -> Iterator[Browser]:
    """A browser with a wide window; afterwards nothing may have gone wrong in the page."""
    look(_browser)
    yield _browser
    assert _browser.complaints == []


def look(browser: Browser, *, width: int = 1280, colours: str = "light", media: str = "") -> None:
    browser.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
    )
    wish = {"name": "prefers-color-scheme", "value": colours}
    browser.call("Emulation.setEmulatedMedia", media=media, features=[wish])


def click(browser: Browser, selector: str) -> None:
    """Click with the mouse, where the element is."""
    browser.ask(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
    box = f"document.querySelector({selector!r}).getBoundingClientRect()"
    place = browser.ask(f"(({{x, y, width, height}}) => ({{x: x + width / 2, y: y + height / 2}}))({box})")
    for kind in ("mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)


@contextmanager
def another_view(browser: Browser) -> Iterator[None]:
    """Do what changes the address; the browser tells the page a little later, which is waited for."""
    browser.ask("void (told = new Promise((done) => addEventListener('hashchange', done, {once: true})))")
    yield
    browser.ask("told.then(() => true)")


def shown(browser: Browser) -> list[str]:
    names: list[str] = browser.ask(SHOWN)
    return names


def by(field: str, *, descending: bool) -> list[Any]:
    return sorted((row[field] for row in RAN.values()), reverse=descending)


def test_the_page_is_shown_as_any_browser_shows_a_file(page: Path, tmp_path: Path) -> None:
    """Opened from the disk by the plain program, it holds the summary and obeys its link."""
    view = f"{page.as_uri()}#sort=duplicates&dir=desc"
    text = subprocess.run(
        command(tmp_path, "--dump-dom", view), capture_output=True, text=True, check=True, timeout=50
    ).stdout
    logged = sum(row["logged"] for row in ROWS.values())
    assert f'<strong class="bad">2</strong> of {logged:,} records lost' in text
    assert "3 of 69 scenarios failed" in text
    assert text.index('data-key="combination/drawn-2 ') < text.index('data-key="server/client-kill-storm ')
    assert 'aria-sort="descending"' in text


def test_nothing_is_asked_for_but_the_page_itself(browser: Browser, page: Path) -> None:
    """One request, for the file; and what a script might try, the page's policy forbids."""
    browser.open(page, "open=network/reset 20261122")
    assert browser.requests == [page.as_uri()]
    assert browser.ask("fetch('http://127.0.0.1:9/').then(() => 'asked', () => 'forbidden')") == "forbidden"
    assert any("Content Security Policy" in complaint for complaint in browser.complaints)
    browser.complaints.clear()


def test_the_worst_comes_first(browser: Browser, page: Path) -> None:
    """Without a wish the failed scenarios lead, then those that did not run; all are there."""
    browser.open(page)
    names = shown(browser)
    assert [ROWS[name]["verdict"] for name in names[:5]] == ["red"] * 3 + ["not run", "green"]
    assert sorted(names) == sorted(ROWS)
    assert browser.ask("document.getElementById('count').value") == "70 scenarios"


@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("field", ["logged", "lost", "recovery_seconds"])
def test_a_link_sorts_by_figures(browser: Browser, page: Path, field: str, direction: str) -> None:
    """As numbers, not as texts; what has no figure comes last in either direction."""
    browser.open(page, f"sort={field}&dir={direction}")
    names = shown(browser)
    assert [ROWS[name][field] for name in names[:-1]] == by(field, descending=direction == "desc")
    assert names[-1] == "disk/eio"
    assert browser.ask(
        "[...document.querySelectorAll('[aria-sort]')].map((one) => [one.dataset.key, one.ariaSort])"
    ) == [[field, f"{direction}ending"]]


def test_a_link_sorts_by_name(browser: Browser, page: Path) -> None:
    """Alphabetically."""
    browser.open(page, "sort=scenario&dir=desc")
    names = shown(browser)
    assert (names[0], names[-1]) == ("server/wrong-type", "combination/drawn-1")


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ("q=KILL", {name for name in ROWS if "kill" in name}),
        ("q=kill+storm", {"server/client-kill-storm"}),
        ("q=needs root", {"disk/eio"}),  # a violation's text
        ("group=disk", {name for name in ROWS if name.startswith("disk/")}),
        ("verdict=red", {"server/client-kill-storm", "disk/torn-wal", "combination/drawn-2"}),
        ("verdict=not+run&group=disk&q=eio", {"disk/eio"}),
        ("group=server&verdict=red&q=torn", set()),
        ("q=%3Cimg src=x onerror=alert(1)%3E", set()),
        ("sort=nonsense&dir=up&open=nothing&verdict=", set(ROWS)),
    ],
)
def test_a_link_filters(browser: Browser, page: Path, view: str, expected: set[str]) -> None:
    """By words, by group, by verdict, and by all of them; a wish that makes no sense changes nothing."""
    browser.open(page, view)
    assert set(shown(browser)) == expected
    count = f"{len(expected)} of 70 scenarios" if len(expected) < 70 else "70 scenarios"
    assert browser.ask("document.getElementById('count').value") == count


def test_what_is_chosen_becomes_the_link(browser: Browser, page: Path) -> None:
    """Typing and choosing filter at once, and the address can be passed on."""
    browser.open(page)
    browser.ask("document.querySelector('[name=q]').focus()")
    browser.call("Input.insertText", text="fork")
    assert browser.ask("location.hash") == "#q=fork"
    assert shown(browser) == ["process/fork"]
    with another_view(browser):
        browser.ask("location.hash = '#group=content'")
    assert browser.ask("document.querySelector('[name=q]').value") == ""
    assert browser.ask("document.querySelector('[name=group]').value") == "content"


def test_headers_sort_by_mouse_and_by_key(browser: Browser, page: Path) -> None:
    """Once for the largest first, once more for the smallest; the focus stays where it is."""
    browser.open(page)
    click(browser, "th[data-key=logged] button")
    assert [RAN[name]["logged"] for name in shown(browser)[:-1]] == by("logged", descending=True)
    browser.press("Enter")
    assert [RAN[name]["logged"] for name in shown(browser)[:-1]] == by("logged", descending=False)
    assert browser.ask("location.hash") == "#sort=logged&dir=asc"
    browser.press("Tab")
    browser.press("Enter")
    assert browser.ask("location.hash") == "#sort=lost&dir=desc"
    assert shown(browser)[0] == "server/kill-9-loses-data"
    assert browser.ask("document.activeElement.closest('th').dataset.key") == "lost"


def test_a_scenario_opens_and_closes(browser: Browser, page: Path) -> None:
    """By mouse, by key and by link; only what is open is shown."""
    details = "[...document.querySelectorAll('.detail')].filter((one) => one.checkVisibility()).length"
    browser.open(page, "sort=lost&dir=desc")
    assert browser.ask(details) == 0
    click(browser, "tbody th button")
    assert browser.ask(details) == 1
    assert browser.ask("location.hash") == "#sort=lost&dir=desc&open=server%2Fkill-9-loses-data+20261122"
    assert browser.ask("document.activeElement.ariaExpanded") == "true"
    browser.press("Enter")
    assert browser.ask(details) == 0
    with another_view(browser):
        click(browser, ".reasons a")
    assert (
        browser.ask("document.querySelector('tbody.open').dataset.key") == "server/client-kill-storm 20261122"
    )
    assert "2 owed records are not in the list" in browser.ask(
        "document.querySelector('tbody.open').innerText"
    )


def test_a_timeline_is_drawn_and_read(browser: Browser, page: Path) -> None:
    """Four lines that differ without colour, a shade where the fault was, values under mouse and key."""
    browser.open(page, "open=network/reset 20261122")
    lines = "[...document.querySelectorAll('.open svg .line')].filter((one) => one.getTotalLength() > 100)"
    names = browser.ask(f"{lines}.map((one) => one.classList[1])")
    assert names == ["delivered", "logged", "spooled", "in_memory"]
    per_panel = f"{lines}.map((one) => getComputedStyle(one).strokeDasharray)"
    delivered, logged, spooled, in_memory = browser.ask(per_panel)
    assert delivered != logged and spooled != in_memory
    assert browser.ask("document.querySelector('.open .shade').getBoundingClientRect().width") > 50
    assert "9,000 records logged" in browser.ask("document.querySelector('.open svg').ariaLabel")

    middle = "(({x, y, width}) => ({x: x + width * 0.65, y: y + 50}))"
    place = browser.ask(f"{middle}(document.querySelector('.open svg').getBoundingClientRect())")
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
    read = "document.querySelector('.open figure output').value"
    assert browser.ask(read) == "4.90 s: 7,350 logged, 7,350 delivered, 0 spooled, 0 in memory"
    browser.ask("document.querySelector('.open [type=range]').focus()")
    browser.press("ArrowRight")
    assert browser.ask(read).startswith("5.00 s: 7,500 logged")


def test_hostile_text_does_nothing_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    """It is read as text, opened by its link and searched for like any other."""
    text = "</script></td><script>hacked = 1</script><img src=x onerror='hacked = 2'> & \"%41+"
    hostile = sample_run.row(
        text, fault=text, promise=text, proofs=[text], violations=[text], verdict="red", sink=text
    )
    browser.open(write_page(sample_run.write_run(tmp_path, [hostile, sample_run.row()])), "q=hacked")
    assert browser.ask("typeof hacked") == "undefined"
    assert browser.ask("document.querySelectorAll('img').length") == 0
    with another_view(browser):
        click(browser, ".reasons a")
    assert browser.ask("document.querySelector('tbody.open th button').textContent") == text
    assert browser.ask("document.querySelector('tbody.open').checkVisibility()") is True


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 800, 1280])
def test_it_is_readable_in_any_light_and_width(
    browser: Browser, page: Path, width: int, colours: str
) -> None:
    """All text stands out 4.5 to 1, and the page is nowhere wider than the window."""
    look(browser, width=width, colours=colours)
    browser.open(page, "open=server/kill-9-loses-data 20261122")
    assert browser.ask(PALE) == []
    assert browser.ask("document.documentElement.scrollWidth") <= width
    dark = browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    assert dark == (colours == "dark")


def test_on_paper_there_are_no_controls(browser: Browser, page: Path) -> None:
    """What is open is printed with its picture, on white."""
    look(browser, colours="dark", media="print")
    browser.open(page, "open=network/reset 20261122")
    assert browser.ask("document.querySelector('#filter').checkVisibility()") is False
    assert browser.ask("document.querySelector('.open input').checkVisibility()") is False
    assert browser.ask("document.querySelector('.open svg').checkVisibility()") is True
    assert browser.ask("getComputedStyle(document.body).color") == "rgb(28, 33, 40)"


def test_without_its_script_the_page_shows_everything(browser: Browser, page: Path) -> None:
    """No detail is hidden where nothing could open it, and no control is shown that would do nothing."""
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        assert len(shown(browser)) == 70
        visible = "[...document.querySelectorAll({!r})].filter((one) => one.checkVisibility()).length"
        assert browser.ask(visible.format(".detail")) == 70
        assert browser.ask(visible.format("#filter, [type=range]")) == 0
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
