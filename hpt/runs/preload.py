"""What every job imports, imported once by the process that jobs are forked from (see `hpt.runs.pool`).

Importing is all it may do: PyTorch's threads do not survive a fork, so nothing may be computed here, and nothing may
touch a GPU.
"""

import atexit
import gc
import importlib
import logging
import os

from hpt.support.process import AVX2, keep_to_avx2

MODULES = (
    "deepspeed",
    "pyarrow.dataset",
    "transformers.models.qwen2.modeling_qwen2",  # of the worlds made here; another family's are imported by its jobs
    "vllm.model_executor.models.qwen2",
    "vllm.v1.worker.cpu_worker",
    "hpt.evaluation.evaluate",
    "hpt.rewards.workers",
    "hpt.runs.job",
    "hpt.training.bases",
    "hpt.training.trainer",
)

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read when vLLM is imported
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
logging.getLogger("vllm").setLevel(logging.ERROR)  # for what it says before it has read that
os.environ.update(AVX2)  # jobs that use more are not forked
keep_to_avx2()
gc.disable()  # modules stay: looking for garbage among them takes a fifth of the time
try:
    for name in MODULES:
        importlib.import_module(name)
finally:
    gc.enable()
gc.collect()
gc.freeze()  # what is shared stays shared: a collection in a job would write to every page
atexit.register(gc.unfreeze)  # or nanobind takes what is frozen for leaks, and says so at length
