"""The policy being trained and what goes through it: trajectories laid into micro-batches, and their log-probs.

The policy is a Hugging Face causal language model whose head works in chunks: it never builds a [tokens, vocabulary]
tensor larger than one chunk; everything else is the model as it is.

Letters used throughout the package:

    N   prompts of an optimiser step           B   trajectories of a micro-batch
    n   rollouts per prompt                    T   response tokens of a micro-batch, flattened, no padding
    L   maximum response length, tokens        H   hidden size                 V   vocabulary

Index t of a log-prob, an advantage or a mask always names the *response token* t, never the position that predicts it;
`MicroBatch.predictor` holds those positions.
"""

import importlib.util
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from hpt.config.run_config import RunConfig, merge, validate
from hpt.config.scales import BFLOAT16
from hpt.data.models import check_model_folder
from hpt.methods.mixture import DEMONSTRATION, Trajectory, WeightedTrajectory
from hpt.support.errors import ConfigError, warn
from hpt.upge.likelihood import token_logprobs_and_entropy

#: Name under which transformers finds `shared_prompt_attention`.
ATTENTION = "hpt_sdpa"


@dataclass(eq=False)
class PartStreams:
    """Flattened tensors of one component over a micro-batch: advantages, scales [T] float; keep [T] or None."""

    advantages: Tensor
    scales: Tensor
    keep: Tensor | None


@dataclass(eq=False)
class MicroBatch:
    """What one forward pass reads.

    Attributes:
        input_ids: [rows, width] int64. ``padded``: a trajectory a row, zeros after its end (causal attention never
            looks ahead, so no attention mask is needed). ``packed``: one row, trajectories end to end. ``shared``: one
            row, each distinct prompt once, followed by the responses to it.
        position_ids: [rows, width] int64, restarting with every trajectory.
        predictor: [T] int64, flat index into rows x width of the position that predicts each response token.
        targets: [T] int64 response tokens.
        trajectory: [T] int64, which trajectory a token belongs to, 0..B-1.
        old_logprobs: [T] float32.
        rewards: [B] float32.
        parts: streams per component index.
        entropy_scales, kl_scales: [T] float32.
        has_bonus: whether a trajectory of the optimiser step has an entropy bonus, on whatever rank: at ZeRO-3 a rank
            that left out a part of the backward pass would wait for the others for ever.
        members: the weighted trajectories, in order.
        sequences: ``shared`` alone: [B, longest] int64, the positions of input_ids that a trajectory is made of, any
            after its end.
        places: ``shared`` alone: [width] int64, flat index into ``sequences`` of one place of each position.
    """

    input_ids: Tensor
    position_ids: Tensor
    predictor: Tensor
    targets: Tensor
    trajectory: Tensor
    old_logprobs: Tensor
    rewards: Tensor
    parts: dict[int, PartStreams]
    entropy_scales: Tensor
    kl_scales: Tensor
    has_bonus: bool = True
    members: Sequence[WeightedTrajectory] = field(default_factory=tuple)
    sequences: Tensor | None = None
    places: Tensor | None = None


def zero_weight_filler() -> WeightedTrajectory:
    """Return a one-token trajectory that weighs nothing: a rank with less work runs it so that all ranks run equally.

    At ZeRO 2 and 3 every forward and backward is a collective; a rank that left one out would hang the others.
    """
    one = np.zeros(1, dtype=np.int32)
    trajectory = Trajectory("", 0, DEMONSTRATION, one, one, np.zeros(1, dtype=np.float32), 0.0, -1)
    return WeightedTrajectory(trajectory, ())


def split_over_ranks(
    items: Sequence[WeightedTrajectory], ranks: int, layout: str = "padded"
) -> list[list[WeightedTrajectory]]:
    """Deal trajectories to ranks so that token counts are even: longest first, to the rank with the least so far.

    ``shared`` deals all trajectories of a prompt together. Deterministic and computed alike on every rank from the same
    list.
    """
    shares: list[list[WeightedTrajectory]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    groups = _by_prompt(items) if layout == "shared" else [[item] for item in _longest_first(items)]
    for group in sorted(groups, key=lambda group: -_forwarded(group)):
        rank = load.index(min(load))
        shares[rank] += group
        load[rank] += _forwarded(group)
    return shares


def split_into_micro_batches(
    items: Sequence[WeightedTrajectory], token_budget: int, layout: str = "padded"
) -> list[list[WeightedTrajectory]]:
    """Group trajectories under a token budget; a trajectory longer than the budget makes a group of its own.

    The budget is of the tokens that the layers see: ``padded`` counts rows x longest, sorted by length, so little is
    padding; ``packed`` all tokens; ``shared`` every prompt once. There attention still sees rows x longest, at most
    twice the budget.
    """
    groups: list[list[WeightedTrajectory]] = []
    ordered = chain.from_iterable(_by_prompt(items)) if layout == "shared" else _longest_first(items)
    for item in ordered:
        group = [*groups[-1], item] if groups else [item]
        rows = len(group) * max(member.trajectory.total_tokens for member in group)
        if layout == "padded":
            fits = rows <= token_budget
        elif layout == "packed":
            fits = sum(member.trajectory.total_tokens for member in group) <= token_budget
        else:
            fits = _forwarded(group) <= token_budget and rows <= 2 * token_budget
        if groups and fits:
            groups[-1] = group
        else:
            groups.append([item])
    return groups


def _forwarded(items: Sequence[WeightedTrajectory]) -> int:
    """Number of tokens with each distinct prompt once."""
    prompts = {item.trajectory.prompt_tokens.tobytes(): len(item.trajectory.prompt_tokens) for item in items}
    return sum(prompts.values()) + sum(item.trajectory.length for item in items)


def _by_prompt(items: Iterable[WeightedTrajectory]) -> list[list[WeightedTrajectory]]:
    """Return the trajectories of each distinct prompt, longest first, in groups, that of the longest first."""
    groups: dict[bytes, list[WeightedTrajectory]] = {}
    for item in _longest_first(items):
        groups.setdefault(item.trajectory.prompt_tokens.tobytes(), []).append(item)
    return list(groups.values())


def _longest_first(items: Iterable[WeightedTrajectory]) -> list[WeightedTrajectory]:
    # sorted() is stable, so equal lengths keep the order of the batch: the split depends on nothing else
    return sorted(items, key=lambda item: -item.trajectory.total_tokens)


def _laid_out(trajectories: Sequence[Trajectory], layout: str) -> dict[str, Any]:
    """Return input_ids, position_ids and predictor of ``padded`` and ``packed`` rows."""
    sizes = [trajectory.total_tokens for trajectory in trajectories]
    rows, width = (len(sizes), max(sizes)) if layout == "padded" else (1, sum(sizes))
    starts = np.arange(rows) * width if layout == "padded" else np.cumsum([0, *sizes[:-1]])
    input_ids = np.zeros(rows * width, dtype=np.int64)
    positions = np.tile(np.arange(width), rows) if layout == "padded" else np.concatenate([np.arange(s) for s in sizes])
    predictor = []
    for start, size, trajectory in zip(starts, sizes, trajectories, strict=True):
        input_ids[start : start + size] = np.concatenate([trajectory.prompt_tokens, trajectory.response_tokens])
        predictor.append(start + len(trajectory.prompt_tokens) - 1 + np.arange(trajectory.length))
    shape = {"input_ids": input_ids.reshape(rows, width), "position_ids": positions.reshape(rows, width)}
    return shape | {"predictor": np.concatenate(predictor)}


def _laid_out_shared(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """Return one row of each distinct prompt and the responses to it, less their last tokens, which predict nothing."""
    longest = max(trajectory.total_tokens - 1 for trajectory in trajectories)
    sequences = np.zeros((len(trajectories), longest), dtype=np.int64)
    ids, positions, places, predictor = [], [], [], []
    starts: dict[bytes, int] = {}
    used = 0
    for row, trajectory in enumerate(trajectories):
        length, read = len(trajectory.prompt_tokens), trajectory.response_tokens[:-1]
        key = trajectory.prompt_tokens.tobytes()
        if key not in starts:
            starts[key] = used
            ids.append(trajectory.prompt_tokens)
            positions.append(np.arange(length))
            places.append(row * longest + np.arange(length))
            used += length
        ids.append(read)
        positions.append(length + np.arange(len(read)))
        places.append(row * longest + length + np.arange(len(read)))
        made_of = np.concatenate([starts[key] + np.arange(length), used + np.arange(len(read))])
        sequences[row, : len(made_of)] = made_of
        predictor.append(made_of[length - 1 :])
        used += len(read)
    rows = {"input_ids": np.concatenate(ids)[None], "position_ids": np.concatenate(positions)[None]}
    return rows | {"predictor": np.concatenate(predictor), "sequences": sequences, "places": np.concatenate(places)}


def collate(
    items: Sequence[WeightedTrajectory], components: int, layout: str = "padded", dtype: torch.dtype = torch.float32
) -> MicroBatch:
    """Lay B trajectories into the tensors of one forward pass, on CPU; the gradient is the same in every layout.

    ``components`` is the number of the method's, ``dtype`` that of the weights (float64 in the invariance tests).
    """
    trajectories = [item.trajectory for item in items]
    laid_out = _laid_out_shared(trajectories) if layout == "shared" else _laid_out(trajectories, layout)
    lengths = [item.trajectory.length for item in items]

    def spread(per_trajectory: Iterable[float]) -> Tensor:
        return torch.from_numpy(np.repeat(np.fromiter(per_trajectory, np.float64), lengths)).to(dtype)

    def concatenate(arrays: Iterable[np.ndarray], kind: torch.dtype) -> Tensor:
        return torch.from_numpy(np.concatenate(list(arrays))).to(kind)

    parts: dict[int, PartStreams] = {}
    for index in range(components):
        of_items = [next((part for part in item.parts if part.component == index), None) for item in items]
        if all(part is None for part in of_items):
            continue
        advantages = [part.advantages if part else np.zeros(size) for part, size in zip(of_items, lengths, strict=True)]
        keeps = [part.keep if part else None for part in of_items]
        keep = None
        if any(own is not None for own in keeps):
            whole = (np.ones(size) if own is None else own for own, size in zip(keeps, lengths, strict=True))
            keep = concatenate(whole, dtype)
        scales = spread(0.0 if part is None else part.scale for part in of_items)
        parts[index] = PartStreams(concatenate(advantages, dtype), scales, keep)
    return MicroBatch(
        **{name: torch.from_numpy(values.astype(np.int64)) for name, values in laid_out.items()},
        targets=concatenate((trajectory.response_tokens for trajectory in trajectories), torch.int64),
        trajectory=torch.from_numpy(np.repeat(np.arange(len(items)), lengths)),
        old_logprobs=concatenate((item.trajectory.old_logprobs for item in items), dtype),
        rewards=torch.tensor([item.trajectory.reward for item in items], dtype=dtype),
        parts=parts,
        entropy_scales=spread(item.entropy_scale for item in items),
        kl_scales=spread(item.kl_scale for item in items),
        has_bonus=any(item.entropy_scale for item in items),
        members=tuple(items),
    )


def shared_prompt_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    sequences: Tensor | None = None,
    places: Tensor | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Return PyTorch's attention [rows, width, heads, D], over ``shared`` rows where ``sequences`` says what they hold.

    The layers see each distinct prompt once; here each trajectory is put together for attention alone, and of what it
    returns for the tokens of a prompt one copy goes on. Called by transformers in place of its own ``sdpa``, with
    query, key and value [rows, heads, width, D], positions encoded; ``sequences`` and ``places``: see `MicroBatch`.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if sequences is None or places is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    rows, longest = sequences.shape

    def gathered(states: Tensor) -> Tensor:
        table = states[0].transpose(0, 1)  # [width, heads, D]
        # not `index_select`, whose backward pass on CPU adds up one position at a time
        found = embedding(sequences, table.reshape(len(table), -1))
        return found.view(rows, longest, *table.shape[1:]).transpose(1, 2)

    query, key, value = gathered(query), gathered(key), gathered(value)
    attended, _ = sdpa_attention_forward(module, query, key, value, None, **settings)
    return embedding(places, attended.flatten(0, 1).flatten(1)).view(1, len(places), *attended.shape[2:]), None


class ChunkedHead(nn.Module):
    """The output head, called with targets: returns log-probs and entropies instead of logits.

    It shares the weight of the head it replaces, so names in the state dict stay what other software expects. It is a
    module of its own, called as one, because DeepSpeed ZeRO-3 gathers a parameter when its module is called; reading
    ``lm_head.weight`` from outside would find an empty tensor.

    What some families do to their logits after the head is done here: Cohere multiplies them by ``logit_scale``,
    Granite divides by ``logits_scaling``, Gemma 2 bounds them by ``final_logit_softcapping``.
    `hpt.training.guards.check_own_forward` refuses what is not known here.
    """

    def __init__(self, head: nn.Linear, config: Any) -> None:
        super().__init__()
        self.weight, self.bias = head.weight, head.bias
        self.scale = (getattr(config, "logit_scale", None) or 1) / (getattr(config, "logits_scaling", None) or 1)
        self.cap: float | None = getattr(config, "final_logit_softcapping", None)

    def forward(self, hidden: Tensor, targets: Tensor | None = None, temperature: float = 1.0) -> Any:
        """Return (logprobs [T], entropies [T]) of ``targets`` [T] given ``hidden`` [T, H]; without targets, logits."""
        if targets is None:  # called by the model's own forward pass
            return nn.functional.linear(hidden, self.weight, self.bias)
        return token_logprobs_and_entropy(
            hidden, self.weight, targets, temperature=temperature / self.scale, bias=self.bias, cap=self.cap
        )


class PolicyModule(nn.Module):
    """The model and its forward pass over a micro-batch: pi_theta's log-probs and entropies, per response token.

    Raises:
        ConfigError: transformers does not say which part of the model is its body and which its head.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        if model.base_model is model or model.get_output_embeddings() is None:
            remedy = "use a model of another family, Qwen2 or Llama for example"
            raise ConfigError("policy.path", type(model).__name__, "a model of a body and an output head", remedy)
        self.model = model
        # a window or chunks of attention are in the mask alone for some families, and a shared row has no mask
        windows = ("sliding_window", "attention_chunk_size")
        if model.config._attn_implementation == "sdpa" and not any(getattr(model.config, name, 0) for name in windows):
            from transformers import AttentionInterface, AttentionMaskInterface
            from transformers.masking_utils import sdpa_mask

            AttentionInterface.register(ATTENTION, shared_prompt_attention)
            AttentionMaskInterface.register(ATTENTION, sdpa_mask)
            model.set_attn_implementation(ATTENTION)  # families without the interface only warn
        #: Whether a `MicroBatch` may be ``shared``; `hpt.training.guards.check_own_forward` turns it off where layers
        #: other than attention look at their neighbours.
        self.shares_prompts = model.config._attn_implementation == ATTENTION
        model.set_output_embeddings(ChunkedHead(model.get_output_embeddings(), model.config))

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        predictor: Tensor,
        targets: Tensor,
        temperature: float,
        whole_model: bool = False,
        sequences: Tensor | None = None,
        places: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (logprobs [T], entropies [T]) of a `MicroBatch`'s tensors, logits divided by ``temperature``.

        The restarts of a packed row's ``position_ids`` mark its trajectories; None for padded rows, where plain causal
        attention is right as it is. ``whole_model``: through the model's forward pass with all its logits, to compare
        with; small batches only.
        """
        inputs = {"input_ids": input_ids, "position_ids": position_ids, "use_cache": False}
        if sequences is not None:  # a mask of four dimensions is handed on as it is, and none is made
            no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=input_ids.device)
            inputs |= {"sequences": sequences, "places": places, "attention_mask": no_mask}
        if whole_model:
            logits = self.model(**inputs).logits.flatten(0, 1).index_select(0, predictor)
            table = (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).log_softmax(-1)
            return table.gather(1, targets[:, None]).squeeze(1), -(table.exp() * table).sum(-1)
        selected = self.model.base_model(**inputs).last_hidden_state.flatten(0, 1).index_select(0, predictor)
        return self.model.get_output_embeddings()(selected, targets, temperature)


def checkpoint_activations(model: nn.Module) -> None:
    """Have a model keep the input of each layer alone and compute its insides again in the backward pass.

    transformers checkpoints a module only while it trains, which a model loaded from a folder does not. Only the
    modules that checkpoint are told so: what lies inside them goes on as it was sampled from.
    """
    model.gradient_checkpointing_enable()  # pyright: ignore[reportCallIssue]
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True


def turn_off_dropout(model: nn.Module) -> dict[str, float]:
    """Set every dropout probability of a model to 0 and return those that were above, by name.

    Sampler and ratio know no dropout: under it, the trainer's log-probs would be those of another law at every pass.

    Example:
        >>> turn_off_dropout(nn.Sequential(nn.Dropout(0.1)))
        {'0': 0.1}
    """
    found: dict[str, float] = {}
    for path, module in model.named_modules():
        for name, value in list(vars(module).items()):
            of_module = name == "p" and isinstance(module, nn.Dropout)
            if (of_module or "drop" in name) and isinstance(value, float) and value > 0:
                setattr(module, name, 0.0)
                found[path.rpartition(".")[2] if of_module else name] = value
    return found


def forward_micro_batch(
    module: Callable[..., Any], batch: MicroBatch, layout: str, temperature: float, whole_model: bool = False
) -> tuple[Tensor, Tensor]:
    """Run a micro-batch through a `PolicyModule` (or the DeepSpeed engine around one)."""
    position_ids = None if layout == "padded" else batch.position_ids
    rows = batch.sequences, batch.places
    return module(batch.input_ids, position_ids, batch.predictor, batch.targets, temperature, whole_model, *rows)


def flash_attention_works(dtype: str) -> bool:
    """Return whether FlashAttention is installed and can run here: on a GPU, in half precision."""
    installed = importlib.util.find_spec("flash_attn") is not None
    return installed and torch.cuda.is_available() and dtype == "bfloat16"


def attention_and_layout(attention: str, layout: str, dtype: str) -> tuple[str, str]:
    """Return (attention, layout) with ``auto`` decided by what is installed; the gradient is the same either way.

    Packing pays with FlashAttention, which skips what other trajectories' tokens would see. To PyTorch's own attention
    a packed row is one long sequence under an explicit mask, quadratic in its length; padded rows, sorted by length,
    need no mask and hold little padding.

    Raises:
        ConfigError: FlashAttention is asked for and cannot run here.

    Example:
        >>> attention_and_layout("auto", "auto", "float32")
        ('sdpa', 'padded')
    """
    works = flash_attention_works(dtype)
    if attention == "flash_attention_2" and not works:
        remedy = "install flash-attn beside a CUDA build of PyTorch and use bfloat16, or set engine.attention to auto"
        raise ConfigError("engine.attention", attention, "sdpa or auto on this machine", remedy)
    chosen = ("flash_attention_2" if works else "sdpa") if attention == "auto" else attention
    flash = chosen == "flash_attention_2"
    return chosen, ("packed" if flash else "padded") if layout == "auto" else layout


#: Flags of processors that multiply bfloat16; the others only emulate it, two to three times as slow as float32.
_BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")


def computed_config(config: RunConfig, begun: str = "", cpuinfo: Path = Path("/proc/cpuinfo")) -> RunConfig:
    """Return the settings with ``policy.dtype = auto`` decided by this machine; a run's name keeps ``auto``.

    bfloat16 on a GPU and on a processor that multiplies it and may (``engine.instruction_set = native``), with the
    settings it needs (`hpt.config.scales.BFLOAT16`); float32 elsewhere. A run that was ``begun`` in one of them goes on
    in it.
    """
    if config.policy.dtype != "auto":
        return config
    if begun:
        more = BFLOAT16 if begun == "bfloat16" else {}
        return validate(merge(config.model_dump(), {"policy": {"dtype": begun}}, more))
    flags = cpuinfo.read_text().split() if cpuinfo.is_file() else []
    native = config.engine.instruction_set == "native"
    if torch.cuda.is_available() or (native and any(flag in flags for flag in _BFLOAT16_FLAGS)):
        return validate(merge(config.model_dump(), {"policy": {"dtype": "bfloat16"}}, BFLOAT16))
    none = f"this processor has none of {', '.join(_BFLOAT16_FLAGS)}" if native else "engine.instruction_set = avx2"
    warn(f"policy.dtype = auto: float32 is used, for {none}")
    return validate(merge(config.model_dump(), {"policy": {"dtype": "float32"}}))


def load_model(
    folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32, attention: str = "sdpa"
) -> nn.Module:
    """Load a model folder in Hugging Face format.

    Raises:
        ConfigError: no such folder, no model or tokenizer in it, or a model that needs code of its own to run.
    """
    check_model_folder(folder)
    from transformers import AutoModelForCausalLM

    # use_safetensors: a pickled pytorch_model.bin could run anything it likes
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention, use_safetensors=True, local_files_only=True
    )
    if attention == "sdpa" and getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # PyTorch's own attention would leave Gemma 2's cap out, without a word
    return model
