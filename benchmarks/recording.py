"""What a benchmark found, with where and when: one JSON file each below ``benchmarks/results``, and a page of them all.

Only ratios are compared with bounds. Seconds depend on the machine; a ratio to a peer measured in the same run, one
right after the other, much less.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from hpt.runs.folder import provenance
from hpt.support.files import read_json, write_json, write_text

RESULTS = Path(__file__).with_name("results")
PAGE = RESULTS.parent.parent / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Bound:
    """One number with what it has to keep: ``at most`` or ``at least`` a limit, in ``unit``.

    ``why``: what stands in the way where it does not.
    """

    what: str
    measured: float
    kind: str
    limit: float
    unit: str = ""
    why: str = ""

    @property
    def holds(self) -> bool:
        """Whether it is kept."""
        return self.measured <= self.limit if self.kind == "at most" else self.measured >= self.limit

    def text(self) -> str:
        """Return it as a line to print.

        Example:
            >>> Bound("step", 1.2, "at most", 1.25, "x").text()
            'step: 1.2 x (at most 1.25 x): holds'
        """
        unit = f" {self.unit}" if self.unit else ""
        said = "holds" if self.holds else "does NOT hold"
        return f"{self.what}: {self.measured:.3g}{unit} ({self.kind} {self.limit:.3g}{unit}): {said}"


@dataclass(frozen=True)
class Result:
    """A benchmark's bounds, and a table of what they were computed from.

    Attributes:
        name: of its module.
        how: what was measured and how, for the page.
        bounds: the numbers with limits.
        heads, rows: the table.
    """

    name: str
    how: str
    bounds: tuple[Bound, ...]
    heads: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()


def finish(result: Result, record: bool, wall_s: float) -> None:
    """Print a result; with ``record``, also write it and the page anew."""
    for bound in result.bounds:
        print(bound.text(), flush=True)
    if not record:
        return
    versions = {name: metadata.version(name) for name in ("trl", "accelerate") if _installed(name)}
    source = provenance(wall_s) | {"load": round(os.getloadavg()[1], 1)}
    write_json(RESULTS / f"{result.name}.json", asdict(result) | {"provenance": source, "besides": versions})
    write_text(PAGE, page(read_results()))


def read_results() -> list[dict[str, Any]]:
    """Return what was recorded, by name."""
    return [read_json(path) for path in sorted(RESULTS.glob("*.json"))]


def page(results: Sequence[dict[str, Any]]) -> str:
    """Return the page: every bound in one table, then how each was measured and where."""
    lines = [
        "# Speed, memory and agreement",
        "",
        "Written by `make bench ARGS=--record`, never edited; `make bench` measures and prints the same on your",
        "machine. Compared with bounds are ratios to a peer of the same run, which depend little on the machine, how",
        "far our gradients are from TRL's, and how long scale tiny takes. Steps of the mini world compute here with",
        "all that the processor has, its runs with AVX2 alone. All of it is of two CPU cores; `benchmarks/gpu.py` is",
        "for a GPU and has not been run.",
        "",
        "| what | measured | bound | |",
        "| --- | --- | --- | --- |",
    ]
    bounds = [Bound(**own) for result in results for own in result["bounds"]]
    for bound in bounds:
        unit = f" {bound.unit}" if bound.unit else ""
        said = "holds" if bound.holds else "**does not hold**"
        lines.append(f"| {bound.what} | {bound.measured:.3g}{unit} | {bound.kind} {bound.limit:.3g}{unit} | {said} |")
    if reasons := dict.fromkeys(bound.why for bound in bounds if bound.why and not bound.holds):
        lines += ["", "What stands in the way:", "", *(f"* {why}" for why in reasons)]
    for result in results:
        lines += ["", f"## `benchmarks/{result['name']}.py`", "", result["how"], ""]
        if result["rows"]:
            lines += ["| " + " | ".join(result["heads"]) + " |", "| --- " * len(result["heads"]) + "|"]
            lines += ["| " + " | ".join(_shown(value) for value in row) + " |" for row in result["rows"]]
            lines.append("")
        source = result["provenance"]
        versions = ", ".join(
            f"{name} {version}" for name, version in {**source["packages"], **result["besides"]}.items()
        )
        changed = " with changed files" if source["dirty"] else ""
        lines.append(
            f"Measured {source['finished'][:16].replace('T', ' ')} UTC at commit {source['commit'][:12]}{changed} on "
            f"{source['processor']}, {source['cores']} cores, load {source['load']} over the last five minutes; "
            f"Python {source['python']}, {versions}."
        )
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
