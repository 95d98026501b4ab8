"""A headless Chromium, and pages opened in it that may not ask the network for anything."""

import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.support.patience import PATIENCE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@dataclass
class Seen:
    """What a page did that it should not."""

    requests: list = field(default_factory=list)
    complaints: list = field(default_factory=list)


@pytest.fixture(scope="module")
def browser():
    """Start Chromium for a module: Playwright's loop, which runs as long, is in the way of others."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which drives a browser")
    if CHROMIUM is None:
        pytest.skip("needs Chromium, such as Debian's package chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=1_000 * PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Open a file; in the end nothing else was asked for, and the console has nothing to say."""

    @contextmanager
    def open_page(path, *, width=1280, height=800, scheme="light", is_innocent=True):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, offline=True)
        context.set_default_timeout(1_000 * PATIENCE)
        page, seen = context.new_page(), Seen()
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("console", lambda message: seen.complaints.append(message.text))
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.goto(path.as_uri())
        yield page
        context.close()
        if is_innocent:
            assert [url for url in seen.requests if not url.startswith("data:")] == [path.as_uri()]
            assert seen.complaints == []

    return open_page
