"""The sampler: vLLM draws every response of the package, on CPU and GPU alike; there is no second way to generate.

One engine per rank, in the training process. Before it samples, the trainer's weights are moved to the engine in memory
where it holds older ones, and every rollout carries the version of the weights it was drawn from. A request's seed is a
hash of (run seed, step, problem id) and vLLM gives sample i that seed plus i, so what is drawn depends on neither the
order of the prompts, nor the number of ranks, nor on what was drawn before: a resumed run draws what an unbroken one
would.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpt.config.settings import RolloutSettings
from hpt.data.models import model_config, stop_tokens
from hpt.support.errors import ConfigError, HptError, TrainingFault
from hpt.support.process import keep_to_avx2
from hpt.training.ranks import sampler_width, visible_gpus

if TYPE_CHECKING:  # planning a run reads this module's settings and must not wait for PyTorch
    from torch import Tensor


#: Tokens of a block of the key-value cache on CPU, the fewest that vLLM's attention takes there. Samples and log-probs
#: are to the last bit those of its own 128, whose blocks short responses leave mostly empty and short prompts never
#: fill: what responses share of a prompt are full blocks.
CPU_BLOCK_TOKENS = 32

#: Sizes of an attention head that vLLM has on CPU; a test compares them with the installed version's.
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


#: `Sampler.version` of a sampler that gave its weights back.
NO_WEIGHTS = -1


@dataclass(frozen=True)
class SamplingRequest:
    """n samples of one prompt.

    Attributes:
        prompt_tokens: token ids, int32 [P].
        seed: of sample 0; sample i has ``seed + i``.
        samples: n.
        temperature, top_p: sampling law; temperature 0 is greedy.
        max_tokens: ceiling of a response, tokens.
    """

    prompt_tokens: np.ndarray
    seed: int
    samples: int
    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True, eq=False)
class Sample:
    """One sampled response: tokens [len] int32, logprobs [len] float32 as the sampler reports them, and its end."""

    tokens: np.ndarray
    logprobs: np.ndarray
    finish_reason: str


def request_seed(run_seed: int, purpose: str, step: int, problem_id: str) -> int:
    """Return the seed of a request: 62 bits of a hash, leaving room for ``seed + i`` below 2**63.

    Python's own ``hash`` changes from process to process; blake2b does not.
    """
    content = f"{run_seed}\x1f{purpose}\x1f{step}\x1f{problem_id}".encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 2


def check_samplable(folder: str | os.PathLike[str]) -> None:
    """Refuse a model that vLLM cannot run, from its config.json alone: vLLM itself says so after most of a minute.

    Raises:
        ConfigError: an architecture that vLLM has no code for, quantised weights, or on CPU a head of another size
            than its attention has.
    """
    config = model_config(folder)
    known, file = _architectures(), f"{folder}/config.json"
    for name in config.get("architectures") or ():
        if known and name.endswith(("ForCausalLM", "LMHeadModel")) and name not in known:
            allowed = "one that vLLM has code of its own for, such as Qwen2ForCausalLM or LlamaForCausalLM"
            raise ConfigError(f"{file}: architectures", name, allowed, "use a model of another family")
    if quantised := config.get("quantization_config"):
        allowed, remedy = "none: what is trained has float32 or bfloat16 weights", "use the model's unquantised weights"
        raise ConfigError(f"{file}: quantization_config", quantised, allowed, remedy)
    _, size = _heads(config)
    if size is not None and size not in CPU_HEAD_SIZES and not visible_gpus():
        allowed = f"one of {', '.join(map(str, CPU_HEAD_SIZES))}, which vLLM's attention has on CPU"
        remedy = "use a model with such heads (head_dim, or hidden_size / num_attention_heads), or a GPU"
        raise ConfigError(f"{file}: size of a head", size, allowed, remedy)


def _heads(config: dict[str, Any]) -> tuple[int | None, int | None]:
    """Number and size of the attention heads that a config.json names; None = it does not, or latent attention."""
    width = config.get("hidden_size", config.get("n_embd"))
    heads = config.get("num_attention_heads", config.get("n_head"))
    if config.get("kv_lora_rank") is not None:  # its heads have other sizes
        return heads, None
    return heads, config.get("head_dim") or (width // heads if width and heads else None)


def _cache_bytes(folder: str, settings: RolloutSettings, dtype: str) -> float:
    """Size of a cache that all parallel sequences fit in: filling a larger one with zeros takes longer than a tiny run.

    Infinite where the config does not say how large a token's keys and values are.
    """
    config = model_config(folder)
    heads, size = _heads(config)
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    if not (heads and size and layers):
        return math.inf
    of_a_token = 2 * layers * size * (config.get("num_key_value_heads") or heads) * (4 if dtype == "float32" else 2)
    blocks = settings.max_parallel_sequences * math.ceil(settings.max_model_tokens / CPU_BLOCK_TOKENS)
    return (blocks + 1) * CPU_BLOCK_TOKENS * of_a_token  # one block is vLLM's


def _shares_prompts(folder: str) -> bool:
    """Whether vLLM computes the full blocks of a prompt once for all its responses.

    Not for a model with recurrent layers: it would want prompts cut in parts, which `Sampler` cannot have on CPU.
    """
    return not any(re.match("mamba|ssm_|conv_|linear_conv|state_size", name) for name in model_config(folder))


@cache
def _architectures() -> frozenset[str]:
    """What vLLM has code of its own for, read from its source: importing it takes longer than all other checks."""
    vllm = find_spec("vllm")
    source = Path(vllm.origin).parent / "model_executor/models/registry.py" if vllm and vllm.origin else None
    if source is None or not source.is_file():  # its import says what is missing
        return frozenset()
    return frozenset(re.findall(r'^    "(\w+)": \(\s*"(?!transformers")', source.read_text(encoding="utf-8"), re.M))


class Sampler:
    """A vLLM engine holding one model's weights: those of ``folder`` until `load_weights`.

    With several training ``ranks`` the engine joins the running process group, and ``settings.tensor_parallel``
    neighbouring ranks share one engine's weights and requests.

    Raises:
        HptError: vLLM cannot be imported, or cannot load the model.
        ConfigError: the folder names an end token that the model does not know.
    """

    def __init__(self, folder: str, settings: RolloutSettings, dtype: str = "float32", ranks: int = 1) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine must share this process's weights and group
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would go before the setting
        # "auto" pins each process to cores of its own choosing, and two runs side by side choose the same one
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        keep_to_avx2()
        try:
            import torch
            import vllm
            from vllm.sampling_params import RequestOutputKind
        except ImportError as error:
            raise HptError(f"vLLM cannot be imported ({error}); run `hpt doctor`, it says what to install") from error
        self._vllm, self._final_only = vllm, RequestOutputKind.FINAL_ONLY
        self._stop_tokens = stop_tokens(folder)
        options: dict[str, Any] = {}
        if ranks > 1:
            options["distributed_executor_backend"] = "external_launcher"
            options["tensor_parallel_size"] = sampler_width(settings.tensor_parallel, ranks)
        self._sleeps = settings.sleep_while_training and torch.cuda.is_available()
        if self._sleeps:
            options["enable_sleep_mode"] = True
        self._asleep = False
        if not torch.cuda.is_available():
            options["block_size"] = CPU_BLOCK_TOKENS
            options["kv_cache_memory_bytes"] = min(settings.cache_gib << 30, _cache_bytes(folder, settings, dtype))
        try:
            self._engine = vllm.LLM(
                model=folder,
                dtype=dtype,  # pyright: ignore[reportArgumentType]
                load_format="safetensors",  # "auto" reads pickles where a folder holds nothing else
                enforce_eager=True,
                logprobs_mode="processed_logprobs",  # of the law really sampled from: temperature and top-p applied
                max_model_len=settings.max_model_tokens,
                max_num_seqs=settings.max_parallel_sequences,
                max_num_batched_tokens=max(8192, settings.max_model_tokens),
                # a prompt cut in two would need a seeded generator that can be wound back, which PyTorch has not on
                # CPU: vLLM stops with "CPU Generator does not use offset" once a batch of prompts exceeds the budget
                enable_chunked_prefill=False,
                enable_prefix_caching=_shares_prompts(folder),
                skip_tokenizer_init=True,
                disable_log_stats=True,
                gpu_memory_utilization=settings.gpu_memory_share,
                seed=0,
                **options,
            )
            if self._engine.apply_model(lambda model: type(model).__module__)[0].endswith(".transformers"):
                # which changes the classes that the trainer's model is made of, and the trainer fails
                raise ValueError("it has none of its own for this family and would run the one of transformers")
        except Exception as error:  # whatever its code for the model at hand raises
            remedy = "use a model that vLLM supports; `hpt doctor` says whether vLLM itself works"
            said = " ".join(str(error).split())[:300]
            raise HptError(f"vLLM cannot load the model in {folder} ({said}); {remedy}") from error
        self._context = settings.max_model_tokens
        self.version = 0

    def sample(self, requests: Sequence[SamplingRequest]) -> list[list[Sample]]:
        """Return ``samples`` responses for every request, in order.

        Raises:
            ConfigError: a prompt leaves no room for ``max_tokens`` in the context; vLLM would shorten the response.
            TrainingFault: the engine returned fewer or empty responses.
        """
        if not requests:
            return []
        for request in requests:
            length, room = len(request.prompt_tokens), self._context - request.max_tokens
            if length > room:
                allowed = f"at most {room}: rollout.max_model_tokens = {self._context} less {request.max_tokens}"
                raise ConfigError("prompt", f"{length} tokens", allowed, "raise rollout.max_model_tokens")
        parameters = [
            self._vllm.SamplingParams(
                n=request.samples,
                temperature=request.temperature,
                top_p=request.top_p,
                max_tokens=request.max_tokens,
                seed=request.seed,
                logprobs=0,  # of the sampled token only
                flat_logprobs=True,  # lists of numbers instead of an object and a dictionary for every token
                stop_token_ids=self._stop_tokens,
                detokenize=False,
                output_kind=self._final_only,
            )
            for request in requests
        ]
        prompts = [{"prompt_token_ids": request.prompt_tokens.tolist()} for request in requests]
        # keys and values of older weights; and what is drawn must not depend on what was drawn before
        if not self._engine.reset_prefix_cache():
            raise TrainingFault("vLLM still holds an earlier call's prompts, so it could reuse old weights' keys")
        with _eager():
            outputs = self._engine.generate(prompts, parameters, use_tqdm=False)  # pyright: ignore[reportArgumentType]
        batches = [[_to_sample(completion) for completion in output.outputs] for output in outputs]
        if len(batches) != len(requests):
            raise TrainingFault(f"the sampler was asked for {len(requests)} questions and answered {len(batches)}")
        for request, batch in zip(requests, batches, strict=True):
            if len(batch) != request.samples or any(len(sample.tokens) == 0 for sample in batch):
                got = [len(sample.tokens) for sample in batch]
                raise TrainingFault(f"the sampler was asked for {request.samples} responses and returned lengths {got}")
        return batches

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Replace the engine's weights, given one at a time so that ZeRO-3 need gather only one, by their names in the
        model folder; ``version`` is the number of updates they have seen."""
        # model.load_weights would be wrong on CPU: linear weights are repacked after loading, so it would write into
        # a layout that is no longer there
        if self._asleep:  # the weights first: with the cache as well, what is gathered for them might find no room
            import torch

            torch.cuda.empty_cache()  # vLLM asks the driver for its memory, not PyTorch
            self._engine.wake_up(tags=["weights"])
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self._engine.apply_model(_repack_head)
        if self._asleep:
            self._engine.wake_up(tags=["kv_cache"])
            self._asleep = False
        self.version = version

    def sleep(self) -> None:
        """Give the GPU memory of weights and cache back until `load_weights`, with ``rollout.sleep_while_training``.

        Level 2: the weights are thrown away, not kept in the machine's memory, for new ones come before the next
        request. On CPU there is nothing to give back, and vLLM has no such mode.
        """
        if self._sleeps and not self._asleep:
            self._engine.sleep(level=2)
            self._asleep = True
            self.version = NO_WEIGHTS


def _repack_head(model: Any) -> None:
    """Have vLLM's output head compute with the weight it holds.

    On CPU it computes with a packed copy, which reloading renews only for what arrives under the head's own name; a
    head that shares the embedding's weight has no name of its own.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


def _to_sample(completion: Any) -> Sample:
    tokens = np.asarray(completion.token_ids, dtype=np.int32)
    flat = completion.logprobs  # one entry per position, the sampled token's, because only that was asked for
    if flat.token_ids != list(completion.token_ids):
        raise TrainingFault("the sampler returned log-probs of other tokens than those it sampled")
    return Sample(tokens, np.asarray(flat.logprobs, dtype=np.float32), str(completion.finish_reason))


def _eager() -> AbstractContextManager[Any]:
    """On CPU, have vLLM run as written what it would compile at the first call.

    It is one small function (the rank of the sampled token, which nobody reads here), and compiling it takes 20 s on a
    new machine and 2 s in every later process.
    """
    import torch

    return nullcontext() if torch.cuda.is_available() else torch.compiler.set_stance("force_eager")
