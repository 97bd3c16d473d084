"""The pages in a real browser: they draw, stay inside the window, ask for nothing and run nothing foreign."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from pipeline.report.page import render
from pipeline.report.rounds import render_rounds
from pipeline.report.study import StudyData, render_study
from pipeline.report.sweep import render_sweep
from tests.pipeline.report.sample_judging import BASELINE
from tests.pipeline.report.sample_report import HOSTILE, sample_report
from tests.pipeline.report.sample_rounds import sample_rounds
from tests.pipeline.report.sample_study import METHODS, sample_study
from tests.pipeline.report.sample_sweep import METHODS as SWEPT
from tests.pipeline.report.sample_sweep import sample_sweep

pytestmark = pytest.mark.e2e

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
INK = "getComputedStyle(document.body).color"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        reason = "neither chromium nor google-chrome is installed; as root, `apt-get install chromium`"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(sample_report()), encoding="utf-8")
    return path.as_uri()


@contextmanager
def opening(browser: Browser, address: str, width: int, scheme: Any) -> Iterator[tuple[Page, list[str]]]:
    """The page as opened, and everything it complained of or asked for."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen: list[str] = []
    page.on("console", lambda message: seen.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: seen.append(f"error: {error}"))
    page.on("request", lambda asked: seen.append(f"request: {asked.url}") if asked.url != address else None)
    page.goto(address)
    page.wait_for_selector(".plot.drawn >> nth=-1")
    yield page, seen
    page.close()


@pytest.fixture(
    scope="module", params=[(1280, "light"), (400, "light"), (1280, "dark")], ids=["wide", "narrow", "dark"]
)
def opened(browser: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[tuple[Page, list[str]]]:
    with opening(browser, address, *request.param) as opened:
        yield opened


def is_clean_and_draws(page: Page, seen: list[str], figures: int) -> bool:
    """Every figure holds a mark or a line, nothing overflows, nothing was asked for and nothing foreign ran."""
    drawn = page.evaluate(
        "[...document.querySelectorAll('.plot')].filter(p => p.querySelector('.point, .js-line')).length"
    )
    page.mouse.move(200, 400)
    return (
        (page.locator(".plot").count(), drawn, seen) == (figures, figures, [])
        and page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        and page.evaluate("window.pwned") is None
    )


def test_opens_clean_and_draws_every_figure(opened: tuple[Page, list[str]]) -> None:
    page, seen = opened
    assert is_clean_and_draws(page, seen, 22)
    # A figure's text has the colour of the page's text, whichever scheme it is.
    assert page.evaluate(f"getComputedStyle(document.querySelector('.xtick text')).fill === {INK}")


def outcomes(page: Page) -> list[str]:
    """The outcomes of the cards that are shown."""
    return page.evaluate("[...document.querySelectorAll('.sample:not([hidden])')].map(card => card.dataset.outcome)")


def test_filter_by_click_and_by_keyboard(opened: tuple[Page, list[str]]) -> None:
    page, seen = opened
    samples = sample_report().samples
    expected = [sample.outcome for sample in samples]
    assert set(expected) == {"better", "same", "worse", "undecided"} and outcomes(page) == expected
    count = page.locator("#shown")
    page.get_by_role("button", name="trained better").click()
    better = [outcome for outcome in expected if outcome == "better"]
    assert outcomes(page) == better and count.inner_text() == f"{len(better)} of {len(samples)} shown"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert outcomes(page) == [outcome for outcome in expected if outcome == "worse"]
    assert page.locator("button[aria-pressed=true]").inner_text().startswith("trained worse")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    assert outcomes(page) == expected and count.inner_text() == f"{len(samples)} of {len(samples)} shown"
    assert seen == []


def test_search_by_keyboard_in_answers_and_judgments(opened: tuple[Page, list[str]]) -> None:
    page, seen = opened
    samples = sample_report().samples
    page.get_by_role("button", name="all").focus()
    page.keyboard.press("/")
    search = page.get_by_role("searchbox")
    expect(search).to_be_focused()
    expect(search).to_have_value("")  # the key itself is not searched for
    page.keyboard.type("ARE AMONG THE MOST")
    wanted = [sample.outcome for sample in samples if "are among the most" in sample.answers["base"].text]
    assert 0 < len(wanted) < len(samples) and outcomes(page) == wanted
    search.fill("no verdict could be read:")  # stands in a judge's words alone
    undecided = [card for card in samples if any(verdict.outcome == "undecided" for verdict in card.verdicts)]
    assert 0 < len(outcomes(page)) <= len(undecided)
    search.fill("what the judge said")  # the page's own words are not searched
    assert outcomes(page) == [] and page.locator("#shown").inner_text() == f"0 of {len(samples)} shown"
    page.keyboard.type("/")
    expect(search).to_have_value("what the judge said/")
    search.fill("")
    assert outcomes(page) == [sample.outcome for sample in samples] and seen == []


def test_filter_by_benchmark_and_by_the_judges_verdict(opened: tuple[Page, list[str]]) -> None:
    page, seen = opened
    samples = sample_report().samples
    page.get_by_label("Benchmark", exact=True).select_option("alpaca_eval")
    ours = [sample for sample in samples if sample.benchmark == "alpaca_eval"]
    assert outcomes(page) == [sample.outcome for sample in ours]
    verdict = page.get_by_label("The judge's verdict", exact=True)
    verdict.focus()
    page.keyboard.type("base won")  # a select takes the option that begins with what is typed
    won = [s for s in ours if any((each.model, each.outcome) == ("base", "won") for each in s.verdicts)]
    assert 0 < len(won) < len(ours) and outcomes(page) == [sample.outcome for sample in won]
    page.get_by_role("button", name="trained worse").click()
    assert outcomes(page) == [sample.outcome for sample in won if sample.outcome == "worse"]
    page.get_by_role("button", name="all").click()
    for label in ("Benchmark", "The judge's verdict"):
        page.get_by_label(label, exact=True).select_option("")
    assert len(outcomes(page)) == len(samples) and seen == []


def test_the_judges_words_open_by_keyboard_and_stay_text(opened: tuple[Page, list[str]]) -> None:
    page, seen = opened
    card = page.locator(".sample[data-benchmark=alpaca_eval]").first
    words = card.locator("details .text").first
    expect(words).to_be_hidden()
    card.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(words).to_be_visible()
    assert words.inner_text() == HOSTILE[0] and BASELINE in card.inner_text()
    page.keyboard.press("Enter")
    expect(words).to_be_hidden()
    assert page.evaluate("window.pwned") is None and seen == []


def test_eight_hundred_questions_of_two_models(browser: Browser, tmp_path: Path) -> None:
    """All of them are in the page, and those far from the window are not laid out, whatever the filters do."""
    report = sample_report(questions=805, words=280)
    (tmp_path / "report.html").write_text(render(report), encoding="utf-8")
    with opening(browser, (tmp_path / "report.html").as_uri(), 1280, "light") as (page, seen):
        wanted = [sample.outcome for sample in report.samples]
        assert len(wanted) == 835 and outcomes(page) == wanted
        skipped = (
            "[...document.querySelectorAll('.sample .answers')]"
            ".filter(part => !part.checkVisibility({contentVisibilityAuto: true})).length"
        )
        assert page.evaluate(skipped) > 800
        page.get_by_role("button", name="trained worse").click()
        worse = [outcome for outcome in wanted if outcome == "worse"]
        assert outcomes(page) == worse
        page.get_by_role("searchbox").fill(report.samples[700].answers["trained"].text[:60])
        page.get_by_role("button", name="all").click()
        assert outcomes(page) == [report.samples[700].outcome]
        expect(page.locator("#shown")).to_have_text("1 of 835 shown")
        assert seen == []


def test_on_paper_every_word_is_there_and_the_filters_are_not(browser: Browser, address: str) -> None:
    with opening(browser, address, 1280, "dark") as (page, _):
        page.emulate_media(media="print", color_scheme="dark")
        expect(page.locator(".filter")).to_be_hidden()
        last = page.locator(".sample[data-benchmark=mt_bench]").last
        assert page.evaluate(
            "[...document.querySelectorAll('.sample .text')].every(text => text.checkVisibility("
            "{contentVisibilityAuto: true}) && text.scrollWidth <= text.clientWidth && text.clientHeight > 0)"
        )
        expect(last.locator("details .text").first).to_be_visible()  # although it is not open
        # Dark ink on paper, also for those whose screen is dark.
        assert page.evaluate(f"{INK}") == "rgb(28, 35, 48)"


def test_the_policy_stops_a_script_that_got_in(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    page.evaluate("document.body.insertAdjacentHTML('beforeend', `<img src='data:,' onerror='window.pwned = 1'>`)")
    page.evaluate(
        "const s = document.createElement('script'); s.textContent = 'window.pwned = 2'; document.body.append(s)"
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.pwned") is None
    page.close()


def many_methods() -> StudyData:
    return sample_study([f"gamma-method-{index}" for index in range(38)] + [HOSTILE[2], "W" * 300], answers=False)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (400, "light")])
@pytest.mark.parametrize(
    ("data", "figures"),
    [(sample_study([*METHODS, *HOSTILE[1:]]), 7), (many_methods(), 3)],
    ids=["hostile names", "forty methods"],
)
def test_a_study_opens_clean(
    browser: Browser, tmp_path: Path, data: StudyData, figures: int, width: int, scheme: str
) -> None:
    (tmp_path / "study.html").write_text(render_study(data), encoding="utf-8")
    with opening(browser, (tmp_path / "study.html").as_uri(), width, scheme) as (page, seen):
        assert is_clean_and_draws(page, seen, figures)


@pytest.mark.parametrize("width", [1280, 400])
def test_rounds_open_clean(browser: Browser, tmp_path: Path, width: int) -> None:
    (tmp_path / "rounds.html").write_text(render_rounds(sample_rounds()), encoding="utf-8")
    with opening(browser, (tmp_path / "rounds.html").as_uri(), width, "light") as (page, seen):
        assert is_clean_and_draws(page, seen, 5)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (400, "light")])
def test_a_sweep_opens_clean(browser: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    data = sample_sweep([*SWEPT, *HOSTILE[1:], "W" * 300])
    (tmp_path / "sweep.html").write_text(render_sweep(data), encoding="utf-8")
    with opening(browser, (tmp_path / "sweep.html").as_uri(), width, scheme) as (page, seen):
        assert is_clean_and_draws(page, seen, 4)


def test_the_legend_of_a_study_hides_a_method_in_every_figure(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "study.html").write_text(render_study(sample_study(["dpo", "gamma-dpo", "ipo"])), encoding="utf-8")
    with opening(browser, (tmp_path / "study.html").as_uri(), 1280, "light") as (page, seen):

        def shown() -> list[list[str]]:
            """The methods that each figure shows."""
            return page.evaluate(
                "[...document.querySelectorAll('.plot')].map(plot => [...new Set(plot._fullData"
                ".filter(trace => trace.visible === true && trace.x.length).map(trace => trace.name))])"
            )

        every = ["dpo", "gamma-dpo", "ipo"]
        assert shown() == [every, every, every, ["gamma-dpo"], every]
        page.get_by_role("button", name="gamma-dpo").click()
        others = [["dpo", "ipo"]] * 3 + [[], ["dpo", "ipo"]]
        assert shown() == others
        page.emulate_media(color_scheme="dark")  # draws anew
        expect(page.locator(".xtick text").first).to_have_css("fill", page.evaluate(INK))
        assert shown() == others
        page.get_by_role("button", name="hide all").press("Enter")
        assert shown() == [[]] * 5
        page.get_by_role("button", name="show all").click()
        assert shown() == [every, every, every, ["gamma-dpo"], every] and seen == []
