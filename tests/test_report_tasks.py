"""A report of half a table while runs are still being made."""

import shutil
from pathlib import Path
from unittest import mock

import pytest

from hpt.reports.build import NotebookTask, build_report, possible_tasks
from tests.fabricated import fabricate


def test_half_of_table_3_is_a_report_so_far_and_then_the_whole(tmp_path: Path) -> None:
    runs, aside = tmp_path / "runs", tmp_path / "aside"
    llama = next(run.folder for run in fabricate(runs, ["table3"]) if run.arms == ("hpt-llama",))
    assert llama is not None
    shutil.move(llama.path, aside)
    possible, missing = possible_tasks("tiny", ["table3"], [0], runs)
    assert possible == [NotebookTask("table3_main_results", ("table3",), (0,), ("weak",))]
    assert [row["missing"] for row in missing] == [("HPT on the llama base, seed 0",)]
    page = build_report("tiny", [0], runs, tmp_path / "reports", only=["table3"], so_far=True)
    text = page.read_text()
    assert "made of its weak half alone" in text
    assert "Weak base" in text
    assert "Llama-architecture base, HPT" not in text
    assert not llama.path.exists()
    shutil.move(aside, llama.path)
    with mock.patch("hpt.reports.build.execute", side_effect=KeyError) as execute, pytest.raises(KeyError):
        build_report("tiny", [0], runs, tmp_path / "reports", only=["table3"])
    assert "bases" not in execute.call_args.args[2]
