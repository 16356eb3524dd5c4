"""One headless Chromium for all tests of this folder; without one they are skipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.devtools import Browser, find_chromium
from tests.conftest import NO_CHROMIUM


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    executable = find_chromium()
    if executable is None:
        pytest.skip(NO_CHROMIUM)
    with Browser(executable) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Browser:
    """The browser as a user finds it: wide window, light colours."""
    chromium.resize(1280, 900)
    chromium.prefer("light")
    return chromium
