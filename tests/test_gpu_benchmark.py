"""`benchmarks.gpu` with a tiny shape on CPU: every part runs, and the result is what `hpt plan` takes."""

from pathlib import Path

import pytest

from benchmarks.gpu import measure
from hpt.runs.plan import ModelShape, machine_of
from hpt.support.files import write_json
from hpt.upge import likelihood

SHAPE = ModelShape(2, 32, 64, 1, 1, 96, tied=True, attention_bias=True)


@pytest.mark.ci_slow
def test_every_part_is_measured_and_the_result_is_taken_by_the_plan(tmp_path: Path) -> None:
    elements = likelihood.CHUNK_ELEMENTS
    result = measure(SHAPE, 320, peak_tflops=0.1, rows=4, answers=4, repeats=1)
    assert elements == likelihood.CHUNK_ELEMENTS, "the chunked head was not put back"
    training = result["training"]
    assert training["tokens"] == 160 + 208 + 256 + 320, "half to all of the length"
    assert training["tokens_per_s"] == pytest.approx(training["tokens"] / training["seconds"])
    assert 0 < result["utilisation"]["training"] < 1
    assert result["transfer_s"] > 0
    assert 0 < result["sampling_in_loop"]["tokens"] <= 4 * 192
    assert result["in_loop_share"] > 0
    assert result["provenance"]["packages"]["torch"]
    write_json(tmp_path / "gpu.json", result)
    assert machine_of("full", None, 80, 989, tmp_path / "gpu.json").measured
