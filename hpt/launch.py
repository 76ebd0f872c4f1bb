"""How a job's process is started: alone, or on several devices by DeepSpeed's launcher, whose options are passed on."""

import ctypes
import os
import shlex
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from hpt.errors import ConfigError

#: Options for DeepSpeed's launcher, as one text; `--launcher-args` sets it, and notebooks inherit it.
OPTIONS = "HPT_LAUNCHER_ARGS"
#: Options that say on how many devices, or where.
_SIZES = ("--num_gpus", "--num_accelerators", "--num_nodes", "--include", "-i", "--exclude", "-e", "--hostfile", "-H")
#: Options that this package gives itself.
_OWN = ("--module", "--no_python", "--no_local_rank", "--autotuning")


def launcher_options(text: str | None = None) -> list[str] | None:
    """Return the options DeepSpeed's launcher is started with; None = a single process, without it.

    Args:
        text: what the user wrote; None = what the environment says, and without that the launcher with no options
            where there is more than one GPU.

    Raises:
        ConfigError: not options, or one that the package gives itself.

    Example:
        >>> launcher_options("--hostfile hosts --num_gpus 8")
        ['--hostfile', 'hosts', '--num_gpus', '8']
    """
    text = os.environ.get(OPTIONS) if text is None else text
    if text is None:
        return [] if visible_gpus() > 1 else None
    try:
        options = shlex.split(text)
    except ValueError as error:
        raise ConfigError("--launcher-args", text, f"options of `deepspeed` ({error})", "close the quotes") from error
    names = [option.partition("=")[0] for option in options]
    if options and not options[0].startswith("-"):
        raise ConfigError("--launcher-args", text, "options of `deepspeed`, see `deepspeed --help`",
                          "write e.g. --launcher-args '--num_gpus 8'")  # fmt: skip
    if given := [name for name in names if name in _OWN]:
        raise ConfigError("--launcher-args", text, f"other options than {', '.join(given)}", "leave it out: hpt gives "
                          "what its module needs")  # fmt: skip
    if not visible_gpus() and not set(names) & set(_SIZES):
        raise ConfigError("--launcher-args", text, "a number of processes, since there is no GPU to count",
                          "add --num_accelerators N")  # fmt: skip
    return options


def visible_gpus() -> int:
    """Return how many GPUs this process may use, without importing PyTorch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([name for name in chosen.split(",") if name.strip() not in ("", "-1")])
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def job_command(module: str, arguments: Sequence[str], options: Sequence[str] | None) -> list[str]:
    """Return the command that runs ``python -m module arguments``, under the launcher unless ``options`` is None.

    Example:
        >>> job_command("hpt.job", ["job.json"], ["--num_gpus", "8", "--master_port", "29501"])[2:]
        ['deepspeed.launcher.runner', '--num_gpus', '8', '--master_port', '29501', '--no_local_rank', '--module', \
'hpt.job', 'job.json']
    """
    if options is None:
        return [sys.executable, "-m", module, *arguments]
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", *options]
    if not any(option.startswith(("--master_port", "--hostfile", "-H")) for option in options):
        # the launcher always takes 29500, on which a job may still be ending; which port is free on the first of
        # several machines is not known here
        launcher += ["--master_port", str(_free_port())]
    return [*launcher, "--no_local_rank", "--module", module, *arguments]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end_with_parent() -> None:
    """Have this process ended when its parent is, however that ends; called between fork and exec.

    A parent that is killed outright cannot stop what it started: without this it would run on, unseen.
    """
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
