"""What README and the reports say was found is what their verdicts say."""

from pathlib import Path

from hpt.reports.notebooks import markdown_text
from hpt.reports.pages import report_headlines

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
START, END = "<!-- result -->\n", "<!-- end of result -->"


def block() -> str:
    """The sentences as README shows them, a line of a list each; how many claims have which verdict says the report."""
    first, unit, *rest = (own for own in report_headlines(ROOT / "reports" / "mini") if not own.startswith("Of "))
    rest.append(f"{report_headlines(ROOT / 'reports' / 'smollm')[0]} [A real model](reports/smollm/README.md).")
    return f"{first} {unit}\n\n" + "".join(f"* {sentence}\n" for sentence in rest)


def renew() -> None:
    """Write them into README."""
    before, _, rest = README.read_text().partition(START)
    README.write_text(before + START + block() + END + rest.partition(END)[2])


def test_readme_says_what_the_committed_verdicts_say() -> None:
    """Renew with `.venv/bin/python -c "from tests.test_result import renew; renew()"`."""
    assert f"{START}{block()}{END}" in README.read_text()


def test_the_committed_report_opens_with_the_same() -> None:
    """Renew with `.venv/bin/hpt report --scale mini --from-records --seeds 0,1,2,3,4`."""
    opening = (ROOT / "reports" / "mini" / "README.md").read_text().split("\n\n")[1]
    sentences = report_headlines(ROOT / "reports" / "mini")
    assert len(sentences) >= 3
    assert opening == markdown_text(" ".join(sentences))


def test_readme_is_short() -> None:
    assert len(README.read_text().split()) <= 900
