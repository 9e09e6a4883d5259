"""The page in a real browser: ask, watch the turns arrive, and see untrusted text stay text."""

from __future__ import annotations

import threading
from typing import Any

from serving import ANSWER, SEARCH, served


def ask(browser: Any, url: str, question: str) -> Any:
    """The page, just after a question was asked."""
    page = browser.new_page()
    page.goto(url)
    page.fill("#question", question)
    page.click("#ask")
    return page


def test_a_question_shows_its_turns_its_answer_and_the_source_that_holds_it(browser: Any) -> None:
    with served(examples=("who wrote the first program?",)) as (url, _):
        page = browser.new_page()
        page.goto(url)
        page.get_by_role("button", name="who wrote the first program?").click()
        page.wait_for_selector("li.answer")
        assert "Ada" in page.inner_text("li.answer")
        assert "Ada Lovelace" in page.inner_text("li.answer summary")
        assert "holds the answer" in page.inner_text("li.answer summary")
        assert "first program" in page.inner_text("li.search")
        assert page.locator("li.think").count() == 2
        assert "1 search, 2 turns" in page.inner_text("#status")
        page.close()


def test_turns_arrive_one_by_one_and_can_be_stopped(browser: Any) -> None:
    release = threading.Event()

    def script(episode: int, turn: int) -> str:
        if turn == 1:
            release.wait(20)
        return SEARCH if turn == 0 else ANSWER

    with served(script) as (url, agent):
        page = browser.new_page()
        page.goto(url)
        page.fill("#question", "who?")
        page.keyboard.press("Enter")
        page.wait_for_selector("li.search details")
        assert page.locator("li.answer").count() == 0
        page.click("#stop")
        page.wait_for_function("document.getElementById('status').textContent === 'Stopped.'")
        release.set()
        page.wait_for_selector("#ask:not([disabled])")
        page.close()
        agent.close(timeout_s=10)
        assert agent.num_alive == 0


def test_documents_with_markup_are_shown_as_text(browser: Any) -> None:
    with served() as (url, _):
        page = ask(browser, url, "<b>who</b>?")
        page.wait_for_selector("li.answer")
        assert "<img src=x" in page.inner_text("li.search")
        assert page.evaluate("window.pwned") is None
        assert page.locator("li img").count() == 0
        page.close()


def test_errors_are_shown(browser: Any) -> None:
    with served(token="secret") as (url, _):
        page = ask(browser, url, "who?")
        page.wait_for_selector("li.failed")
        assert "API key" in page.inner_text("li.failed")
        page.fill("#token", "secret")
        page.click("#ask")
        page.wait_for_selector("li.answer")
        page.close()
