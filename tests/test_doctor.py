"""The doctor's verdicts, also on made-up machines: every fault it knows is found, and says what to type."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from hpt.runs import doctor
from hpt.runs.doctor import LOCKS, Diagnosis, diagnose, read_lock

LOCKED = read_lock((LOCKS / "cpu.lock").read_text(encoding="utf-8"))
HEALTHY: dict[str, Any] = {"packages": LOCKED, "torch_cuda": None, "has_gpu": False, "free_memory": 16.0}


def lines(patch: pytest.MonkeyPatch, **change: Any) -> dict[str, Diagnosis]:
    for name, value in (HEALTHY | change).items():
        patch.setattr(doctor, name, lambda value=value: value)
    patch.setattr(shutil, "which", lambda name: "/usr/bin/g++")
    return {found.name: found for found in diagnose()}


def test_a_healthy_machine_lacks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = lines(monkeypatch)
    machine = ("cores", "disk", "cache folder", "Python headers", "libnuma")  # of the one the test runs on
    assert [one for name, one in found.items() if name not in machine and (one.status != "ok" or one.remedy)] == []
    assert {"Python", "PyTorch", "vllm", "deepspeed", "math-verify", "lock", "memory", *machine} <= set(found)


@pytest.mark.parametrize(
    ("name", "change", "status", "detail", "remedy"),
    [
        ("PyTorch", {"packages": {}}, "fail", "not installed", "make setup"),
        ("PyTorch", {"torch_cuda": "13.0"}, "fail", "built for CUDA 13.0", "pip uninstall -y torch"),
        ("PyTorch", {"has_gpu": True}, "warn", "has a GPU", "LOCK=requirements/gpu.lock"),
        ("packages left out", {"packages": {"torchvision": "1"}}, "fail", "torchvision::nms", "uninstall -y torchvis"),
        ("vllm", {"packages": {"deepspeed": "1"}}, "fail", "the sampler is not installed", "make setup"),
        ("lock", {"packages": LOCKED | {"torch": "1.0"}}, "warn", "torch 1.0 (locked: 2.", "make -B setup"),
        ("lock", {"packages": {}}, "warn", "missing (locked: ", "make -B setup"),
        ("memory", {"free_memory": 1.5}, "warn", "1.5 GiB free", "--scale tiny"),
    ],
)
def test_each_fault_is_found(
    name: str, change: dict[str, Any], status: str, detail: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = lines(monkeypatch, **change)[name]
    assert found.status == status
    assert detail in found.detail
    assert remedy in found.remedy


def test_a_cache_that_cannot_be_written_and_a_missing_lock_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    monkeypatch.setattr(doctor, "LOCKS", tmp_path)
    found = lines(monkeypatch)
    assert found["cache folder"].status == "fail"
    assert found["lock"].status == "warn"
    assert "no requirements" in found["lock"].detail


def test_this_machine_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = {one.name: one for one in diagnose()}
    assert found["Python"].status == found["PyTorch"].status == found["math-verify"].status == "ok"
