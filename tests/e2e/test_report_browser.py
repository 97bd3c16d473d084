"""The report in a real browser: it draws, stays inside the window, asks for nothing and runs nothing foreign."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from pipeline.report.page import render
from tests.pipeline.report.sample_report import sample_report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]


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


@pytest.fixture(
    scope="module", params=[(1280, "light"), (400, "light"), (1280, "dark")], ids=["wide", "narrow", "dark"]
)
def opened(browser: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[tuple[Page, list[str]]]:
    """The page as opened, and everything it complained of or asked for."""
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen: list[str] = []
    page.on("console", lambda message: seen.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: seen.append(f"error: {error}"))
    page.on("request", lambda asked: seen.append(f"request: {asked.url}") if asked.url != address else None)
    page.goto(address)
    page.wait_for_selector(".plot.drawn >> nth=-1")
    yield page, seen
    page.close()


def test_opens_clean_and_draws_every_figure(opened: tuple[Page, list[str]]) -> None:
    page, seen = opened
    count = page.locator(".plot").count()
    drawn = page.evaluate(
        "[...document.querySelectorAll('.plot')].filter(p => p.querySelector('.point, .js-line')).length"
    )
    assert count == drawn == 11
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    # A figure's text has the colour of the page's text, whichever scheme it is.
    ink = "getComputedStyle(document.body).color"
    assert page.evaluate(f"getComputedStyle(document.querySelector('.xtick text')).fill === {ink}")
    assert page.evaluate("window.pwned") is None
    page.mouse.move(200, 400)
    assert seen == []


def test_filter_by_click_and_by_keyboard(opened: tuple[Page, list[str]]) -> None:
    page, seen = opened
    samples = sample_report().samples

    def shown() -> list[str | None]:
        return [article.get_attribute("data-outcome") for article in page.locator(".sample:visible").all()]

    expected = [sample.outcome for sample in samples]
    assert set(expected) == {"better", "same", "worse"} and shown() == expected
    page.get_by_role("button", name="trained better").click()
    assert shown() == [outcome for outcome in expected if outcome == "better"]
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert shown() == [outcome for outcome in expected if outcome == "worse"]
    assert page.locator("button[aria-pressed=true]").inner_text().startswith("trained worse")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    assert shown() == expected and page.locator("#shown").inner_text() == f"{len(samples)} shown"
    assert seen == []


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
