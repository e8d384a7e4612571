"""A whole farm and a real browser, for tests that use the dashboard as people do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.support.farm import RunningFarm, running_farm

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
#: a machine that renders on its CPU meanwhile answers late
PATIENCE_MS = 60_000


@pytest.fixture(scope="session")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    """A farm with one worker and the built-in model."""
    with running_farm(tmp_path_factory.mktemp("farm")) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    path = next((found for name in CHROMIUM_NAMES if (found := shutil.which(name))), None)
    if path is None:
        reason = "no Chromium is installed; script/browser says how to get one"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield started
        started.close()


class Complaints(list[str]):
    """What the browser complained about; a test that expects an answer such as 422 may forgive it."""

    def watch(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.append(f"{page.url}: {error}"))
        page.on("console", lambda message: self._hear(page.url, message.type, message.text))

    def _hear(self, url: str, kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            self.append(f"{url}: {text}")

    def forgive(self, words: str) -> None:
        self[:] = [complaint for complaint in self if words not in complaint]


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    """Fails the test when the browser's console told of an error, such as one of the Content-Security-Policy."""
    heard = Complaints()
    yield heard
    assert not heard, "\n".join(heard)


@pytest.fixture
def context(browser: Browser, farm: RunningFarm) -> Iterator[BrowserContext]:
    """A fresh browser profile that is logged in."""
    opened = browser.new_context(
        viewport={"width": 1280, "height": 900}, base_url=farm.url, color_scheme="dark"
    )
    opened.set_default_timeout(PATIENCE_MS)
    entered = opened.request.get("/login", params={"token": farm.api_key, "next": "/workers"})
    assert entered.ok
    yield opened
    opened.close()


@pytest.fixture
def page(context: BrowserContext, complaints: Complaints) -> Page:
    """A tab of a logged-in person."""
    opened = context.new_page()
    complaints.watch(opened)
    return opened


@pytest.fixture
def bad_file(tmp_path: Path) -> Path:
    """A file that calls itself an adapter and is none."""
    path = tmp_path / "holiday.safetensors"
    path.write_bytes(b"this is a text and no tensors at all")
    return path
