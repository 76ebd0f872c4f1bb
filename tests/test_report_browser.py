"""The committed report in a real browser: nothing fails, nothing is fetched, nothing overflows, all can be read."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpt.reports.pages import render
from tests.browser import Browser, browser, missing

REPORT = Path(__file__).resolve().parent.parent / "reports" / "mini"
WINDOWS = ((1400, 1000), (420, 900))
pytestmark = [
    pytest.mark.ci_slow,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {missing()} (Debian's chromium and chromium-driver)"),
    pytest.mark.skipif(not REPORT.exists(), reason="reports/mini holds no report"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed report, its pages rendered again by this package; the records are not needed."""
    folder = tmp_path_factory.mktemp("reports") / "mini"
    shutil.copytree(REPORT, folder, ignore=shutil.ignore_patterns("records", ".executed"))
    (folder / "records").symlink_to(REPORT / "records")
    render(folder, "mini")
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["light", "dark"])
def shown(request: pytest.FixtureRequest) -> Iterator[tuple[Browser, str]]:
    with browser(dark=request.param) as own:
        yield own, "dark" if request.param else "light"


def test_every_page_shows_without_an_error_and_asks_for_nothing_else(
    report: Path, shown: tuple[Browser, str], tmp_path: Path
) -> None:
    own, look = shown
    pictures = Path(os.environ.get("HPT_TEST_PICTURES", tmp_path))  # continuous integration may keep them
    pages = sorted([*report.glob("*.html"), *(report / "notebooks").glob("*.html")])
    assert len(pages) > 20
    for page in pages:
        for width, height in WINDOWS:
            own.open(page, width, height)
            own.picture(pictures / f"{page.stem}-{width}-{look}.png")
            found = {"errors": own.errors(), "too wide": own.too_wide(), "too faint": own.too_faint()}
            found["fetched"] = [url for url in own.requests() if not url.startswith(("file:", "data:"))]
            assert not any(found.values()), f"{page.name} at {width}, {look}: {found}"
    assert own.run("return matchMedia('(prefers-color-scheme: dark)').matches") is (look == "dark")


def test_a_click_sorts_and_a_link_opens_what_it_leads_to(report: Path, shown: tuple[Browser, str]) -> None:
    own, _ = shown
    own.open(report / "index.html", *WINDOWS[0])
    first = "return document.querySelector('table.lines tbody tr td:last-child').textContent.trim()"
    own.run("document.querySelectorAll('table.lines thead th')[3].click()")
    assert own.run(first).startswith("does not hold")
    own.run("document.querySelectorAll('table.lines thead th')[3].click()")
    assert own.run(first).startswith("undecided")
    own.run("document.querySelectorAll('table.lines thead th')[2].click()")
    texts = own.run(
        "return [...document.querySelector('table.lines tbody').querySelectorAll('td:nth-child(3)')].map("
        "own => own.innerText)"
    )
    numbers = [float(found[0]) for text in texts if (found := re.match(r"[-+]?[\d.]+", text))]
    assert numbers == sorted(numbers)
    assert numbers[0] < 0 < numbers[-1]
    own.run("document.querySelector('table.lines tbody a').click()")
    assert "claims.html#claim-" in own.run("return location.href")
    assert own.run("return document.querySelector(':target').checkVisibility()")  # its fold is open
