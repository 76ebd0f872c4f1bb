"""Settings every test runs under; set before anything imports PyTorch, vLLM or DeepSpeed."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:  # importing hpt here would be too early for what is set below
    from hpt.runs.folder import RunFolder
    from tests.jobs import Undisturbed

# One thread: on two cores shared with the verifier's workers and vLLM, more is slower and reorders float sums.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
# As the runs of the small worlds (`engine.instruction_set`): the same bits with and without AVX-512.
os.environ.update({"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"})
# Nothing is ever downloaded by a test: a missing file must fail at once, not after a minute of retries.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MPLBACKEND", "agg")

# DeepSpeed and the notebook kernels look up programs on the path, also where `.venv/bin/pytest` was typed.
_programs = str(Path(sys.executable).parent)
if _programs not in os.environ["PATH"].split(os.pathsep):
    os.environ["PATH"] = _programs + os.pathsep + os.environ["PATH"]

# The same examples every time, however long one takes: a test must not fail because a machine is busy, or only today.
hypothesis.settings.register_profile(
    "same everywhere", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("same everywhere")


#: Files whose tests share runs that take long to make: one worker has them all.
TOGETHER = (
    "tests/faults/test_resume.py", "tests/faults/test_broken_files.py", "tests/invariance/test_warm_start.py",
    "tests/test_golden.py", "tests/test_plan.py",
)  # fmt: skip
#: Those that take longest, which come first: a long one at the end would leave a worker with nothing to do.
FIRST = (
    "tests/test_reproduce_tiny.py", "tests/test_committed_report.py", "tests/invariance/test_zero3.py",
    "tests/models/test_families.py", "tests/faults/test_lost_machines.py", "tests/test_gpu_scale.py",
    "tests/test_report.py", *TOGETHER, "tests/invariance/test_ranks.py", "tests/invariance/test_processes.py",
    "tests/test_sampler.py", "tests/faults/test_hostile_answers.py", "tests/notebooks/test_notebooks.py",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(FIRST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a file's tests together as `--dist loadfile` does, in the order of collection; see `TOGETHER`."""
    from xdist.scheduler.loadfile import LoadFileScheduling

    if config.option.dist != "loadfile":
        return None

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            name = super()._split_scope(nodeid)
            apart = name == "tests/test_committed_report.py" and "[" in nodeid  # parts that each take minutes
            return TOGETHER[0] if name in TOGETHER else nodeid if apart else name

    config.option.loadscopereorder = False
    return Together(config, log)


@pytest.fixture(scope="session")
def digits_runs(tmp_path_factory: pytest.TempPathFactory) -> "dict[str, Undisturbed]":
    """Undisturbed runs on ten one-digit questions by method, evaluated on one set (10 s on two idle cores)."""
    from tests.digits import digits_config, write_digits
    from tests.golden import REAL
    from tests.jobs import Undisturbed

    world = write_digits(tmp_path_factory.mktemp("digits"))
    started = {
        method: Undisturbed(digits_config(method, world, **REAL), tmp_path_factory.mktemp(method), ("contest-a",))
        for method in ("hpt", "sft_then_grpo")
    }
    return {method: own.wait() for method, own in started.items()}


@pytest.fixture(scope="session")
def undisturbed(digits_runs: "dict[str, Undisturbed]") -> "Undisturbed":
    """That of HPT."""
    return digits_runs["hpt"]


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> "dict[str, RunFolder]":
    """The tiny scale's weak base and two methods trained from it, as ``hpt`` makes them; by method (half a minute)."""
    from hpt.runs.folder import RunFolder
    from hpt.runs.job import Job
    from hpt.runs.pool import run_jobs
    from hpt.runs.resolve import base_config, build_config, resolve_run

    root = tmp_path_factory.mktemp("tiny")
    configs = [build_config(method, scale="tiny") for method in ("hpt", "sft_then_grpo")]
    configs.insert(0, base_config(configs[0]))
    run_jobs([Job(config, root, ("contest-a",)) for config in configs])
    return {config.method: RunFolder.of(resolve_run(config, root), root) for config in configs}


@pytest.fixture(scope="session", autouse=True)
def process_group_stays() -> None:
    """A vLLM engine that ends takes the process group along; here other tests of the process still train in it."""
    import torch

    torch.distributed.destroy_process_group = lambda *_, **__: None
