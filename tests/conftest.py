"""Settings every test runs under; set before anything imports PyTorch, vLLM or DeepSpeed."""

import os
import sys
from pathlib import Path

# One thread: on two cores shared with the verifier's workers and vLLM, more is slower and reorders float sums.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
# Nothing is ever downloaded by a test: a missing file must fail at once, not after a minute of retries.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MPLBACKEND", "agg")

# DeepSpeed and the notebook kernels look up programs on the path, also where `.venv/bin/pytest` was typed.
_programs = str(Path(sys.executable).parent)
if _programs not in os.environ["PATH"].split(os.pathsep):
    os.environ["PATH"] = _programs + os.pathsep + os.environ["PATH"]
