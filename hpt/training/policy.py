"""The policy being trained: a Hugging Face causal language model whose head works in chunks.

The head never builds a [tokens, vocabulary] tensor larger than one chunk; everything else is the model as it is.
"""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from hpt.data.models import check_model_folder
from hpt.support.errors import ConfigError
from hpt.training.batches import MicroBatch
from hpt.upge.likelihood import token_logprobs_and_entropy

#: Name under which transformers finds `shared_prompt_attention`.
ATTENTION = "hpt_sdpa"


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
    returns for the tokens of a prompt one copy goes on. Called by transformers in place of its own ``sdpa``.

    Args:
        module: the attention layer.
        query, key, value: [rows, heads, width, D], positions encoded.
        attention_mask: as transformers makes it; not looked at with ``sequences``.
        sequences, places: see `hpt.training.batches.MicroBatch`.
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

    Args:
        head: the model's.
        config: the model's. What some families do to their logits after the head is done here: Cohere multiplies them
            by ``logit_scale``, Granite divides by ``logits_scaling``, Gemma 2 bounds them by
            ``final_logit_softcapping``. `hpt.training.guards.check_own_forward` refuses what is not known here.
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
        """Return (logprobs [T], entropies [T]).

        Args:
            input_ids: [rows, width].
            position_ids: [1, width] for a packed or shared row; the restarts of a packed one mark the trajectories.
                None for padded rows, where plain causal attention is right as it is.
            predictor: [T] flat positions that predict the targets.
            targets: [T] response tokens.
            temperature: logits are divided by it, as the sampler's are.
            whole_model: through the model's forward pass with all its logits, to compare with; small batches only.
            sequences, places: of a shared row, see `hpt.training.batches.MicroBatch`.
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


def load_model(
    folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32, attention: str = "sdpa"
) -> nn.Module:
    """Load a model folder in Hugging Face format.

    Raises:
        ConfigError: no such folder, no model or tokenizer in it, or a model that needs code of its own to run.

    Example:
        >>> load_model("runs/mini/bases/weak/model")  # doctest: +SKIP
        Qwen2ForCausalLM(...)
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
