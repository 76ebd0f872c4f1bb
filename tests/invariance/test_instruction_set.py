"""Which instructions a run on CPU computes with: AVX2 also on a processor that has AVX-512, unless told otherwise."""

import subprocess
import sys
from pathlib import Path

import pytest

from hpt.runs.folder import RunFolder
from hpt.runs.job import Job, write_job
from hpt.runs.pool import run_jobs
from hpt.runs.resolve import base_config, build_config, resolve_run
from hpt.support.files import read_json
from hpt.support.process import AVX2

FLAGS = Path("/proc/cpuinfo").read_text().split()

#: What PyTorch computes with, and what vLLM asks before it chooses its kernels.
ASKED = """
import sys
from hpt.runs import job

def look(_):
    from hpt.support.process import keep_to_avx2
    keep_to_avx2()
    import torch
    has = torch.cpu._is_avx512_supported(), torch.cpu._is_amx_tile_supported()
    print(torch.backends.cpu.get_cpu_capability(), *has)

job.run_job = look
job.main([sys.argv[1]])
"""


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what these tests run under (`conftest.py`)."""
    for name in AVX2:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("chosen", ["avx2", "native"])
def test_pytorch_and_vllm_are_told_the_same(chosen: str, unset: None, tmp_path: Path) -> None:
    config = build_config("sft", scale="tiny", settings={"engine.instruction_set": chosen})
    spec = write_job(Job(config, tmp_path), RunFolder(tmp_path), {})
    found = subprocess.run([sys.executable, "-c", ASKED, spec], capture_output=True, text=True, check=True)
    wide = chosen == "native" and "avx512f" in FLAGS
    amx = chosen == "native" and "amx_tile" in FLAGS
    assert found.stdout.split()[:3] == ["AVX512" if wide else "AVX2", str(wide), str(amx)]


@pytest.mark.ci_slow
def test_a_run_says_what_it_computed_with(tmp_path: Path, unset: None) -> None:
    """One forked from what has imported PyTorch and vLLM, one started from nothing."""
    configs = {
        chosen: build_config("sft", scale="tiny", settings={"schedule.steps": 1, "engine.instruction_set": chosen})
        for chosen in ("avx2", "native")
    }
    bases = [Job(base_config(configs["avx2"]), tmp_path)]
    run_jobs(bases + [Job(config, tmp_path) for config in configs.values()])
    found = {}
    for chosen, config in configs.items():
        (folder,) = tmp_path.glob(f"*/sft-*-{resolve_run(config, tmp_path).fingerprint()}")
        found[chosen] = read_json(folder / "provenance.json")["instruction_set"]
    assert found == {"avx2": "AVX2", "native": "AVX512" if "avx512f" in FLAGS else "AVX2"}
