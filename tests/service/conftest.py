"""What several folders of services use: a browser, and servers that write."""

import shutil

import pytest

from csplade.service.grpc.server import running


@pytest.fixture(scope="session")
def browser():
    selenium = pytest.importorskip("selenium", reason="selenium is not installed")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("chromium and chromium-driver are not installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    assert selenium
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(programs[1]))
    yield driver
    driver.quit()


@pytest.fixture
def writable(settings, tmp_path):
    """Runs a server on a copy of an index, open for writing."""

    def start(index, **values):
        copy = tmp_path / "writable"
        if not copy.exists():
            shutil.copytree(index, copy)
        chosen = {"writable": True, "scoring__threads": 1, "model__threads": 1, **values}
        return running(settings(copy, model__device="cpu", **chosen))

    return start
