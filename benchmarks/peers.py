"""Our rows against TRL's losses: the full gradient of one small model on one batch, in float64.

    python -m benchmarks peers        (needs requirements/bench.txt; `make bench` installs it)

Both get the same rollouts, rewards and log-probs of the policy that sampled, far enough from the model's that bounds
act on both sides. TRL's gradient is autograd of its own `GRPOTrainer._compute_loss` on a padded batch, ours of
`upge_loss` on single sequences. First both as they come, then with the definitions that differ set alike; what was set
is in the table.
"""

import tempfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.recording import Bound, Result
from hpt.upge.advantage import RolloutGroups, advantages
from hpt.upge.aggregation import StepCounts, trajectory_scales
from hpt.upge.estimator import ROWS, Row, Term, upge_loss
from hpt.upge.row import TokenStreams

QUESTIONS, ROLLOUTS, PROMPT, LONGEST, VOCABULARY = 4, 6, 5, 12, 40
#: Relative to the longest entry; float64 sums over a few hundred tokens lose 1e-14.
SAME = 1e-10
#: TRL's epsilon below the standard deviation of a group, as in its `_generate_and_score_completions`.
TRL_STD_EPSILON = 1e-4


@dataclass(frozen=True)
class Peer:
    """One of TRL's losses and the row that is meant to be the same.

    Attributes:
        title: what TRL calls it.
        row: key of `hpt.upge.estimator.ROWS`.
        settings: of TRL's `GRPOConfig` that choose this loss.
        aligned: further settings that set a definition alike.
        differs: what those, and the epsilon of the standard deviation, are.
    """

    title: str
    row: str
    settings: dict[str, Any]
    aligned: dict[str, Any] = field(default_factory=dict)
    differs: str = ""


_EPSILON = "std + 1e-4 (ours 1e-6)"
PEERS = (
    Peer("loss_type grpo", "grpo", {"loss_type": "grpo"}, differs=_EPSILON),
    Peer("loss_type dr_grpo", "dr_grpo", {"loss_type": "dr_grpo"}, {"scale_rewards": "none"},
         "TRL still divides by the standard deviation unless scale_rewards is none"),
    Peer("loss_type dapo", "dapo", {"loss_type": "dapo", "epsilon_high": 0.28}, differs=_EPSILON),
    Peer("loss_type cispo", "cispo", {"loss_type": "cispo"}, {"epsilon_high": 1.28},
         f"TRL bounds the ratio by epsilon_high itself (unset: 0.2), we by 1 + clip_eps_high = 1.28; {_EPSILON}"),
    Peer("importance_sampling_level sequence", "gspo",
         {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
         differs=_EPSILON),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Batch:
    """Rollouts of a few questions: prompts [B, P], responses with their lengths, old log-probs, rewards."""

    prompts: Tensor
    responses: list[Tensor]
    old_logprobs: list[Tensor]
    rewards: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each response, [B]."""
        return np.array([len(own) for own in self.responses])


def small_model() -> Any:
    """Return a seeded two-layer GPT-2 in float64.

    Not a Qwen2: its RMSNorm computes in float32 whatever the model's dtype.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).to(torch.float64)


def logprobs_of(model: Any, prompt: Tensor, response: Tensor) -> Tensor:
    """Return log pi of a response's tokens, one sequence at a time, without padding."""
    logits = model(input_ids=torch.cat([prompt, response])[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1).gather(1, response[:, None]).squeeze(1)


def make_batch(model: Any) -> Batch:
    """Return a seeded batch of unequal lengths and mixed groups, sampled by a policy some way off."""
    generator = torch.Generator().manual_seed(1)
    count = QUESTIONS * ROLLOUTS
    prompts = torch.randint(VOCABULARY, (QUESTIONS, PROMPT), generator=generator).repeat_interleave(ROLLOUTS, 0)
    lengths = torch.randint(3, LONGEST + 1, (count,), generator=generator).tolist()
    responses = [torch.randint(VOCABULARY, (length,), generator=generator) for length in lengths]
    old = []
    with torch.no_grad():
        for prompt, response in zip(prompts, responses, strict=True):
            noise = 0.25 * torch.randn(len(response), generator=generator, dtype=torch.float64)
            old.append(logprobs_of(model, prompt, response) + noise)
    rewards = np.array([float((7 * i) % 5 < 1 + i // ROLLOUTS) for i in range(count)])
    return Batch(prompts, responses, old, rewards)


def our_gradient(model: Any, batch: Batch, row: Row) -> tuple[Tensor, float]:
    """Return the package's gradient over all parameters, flat, and the share of tokens its mask drops."""
    count = len(batch.responses)
    logprobs = torch.cat([logprobs_of(model, *own) for own in zip(batch.prompts, batch.responses, strict=True)])
    owner = torch.repeat_interleave(torch.arange(count), torch.from_numpy(batch.lengths))
    groups = RolloutGroups(
        rewards=batch.rewards, group=np.arange(count) // ROLLOUTS, is_demonstration=np.zeros(count, bool),
        lengths=batch.lengths,
    )  # fmt: skip
    counts = StepCounts(
        prompts=QUESTIONS, rollouts_per_prompt=ROLLOUTS, max_response_tokens=LONGEST, sequences=count,
        tokens=int(batch.lengths.sum()), pooled_tokens=int(batch.lengths.sum()),
    )  # fmt: skip
    scales = torch.from_numpy(np.asarray(trajectory_scales(row.aggregation, batch.lengths, counts), np.float64))
    part = Term(
        row, advantages=torch.from_numpy(np.concatenate(advantages(row, groups))), scales=scales[owner],
        keep=None, rewards=torch.from_numpy(batch.rewards),
    )  # fmt: skip
    streams = TokenStreams(logprobs, torch.zeros_like(logprobs), torch.cat(batch.old_logprobs), owner, count)
    result = upge_loss(streams, [part])
    sums = {name.rpartition("/")[2]: float(value) for name, value in result.metrics.items()}
    return _flat(result.loss, model), sums["masked_tokens"] / sums["tokens"]


def trl_gradient(
    model: Any, batch: Batch, settings: dict[str, Any], per_response: Tensor, float64: bool = True
) -> Tensor:
    """Return the gradient of TRL's own loss over all parameters, flat.

    Args:
        model: the same.
        batch: the same, padded here.
        settings: of `GRPOConfig`.
        per_response: advantages [B].
        float64: take the log-probs that enter the loss in float64; TRL's own fused head computes them in float32.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

    from hpt.data.world.tokenizer import character_tokenizer

    with tempfile.TemporaryDirectory() as scratch:
        arguments = GRPOConfig(
            output_dir=scratch, use_cpu=True, bf16=False, per_device_train_batch_size=len(batch.responses),
            gradient_accumulation_steps=1, num_generations=ROLLOUTS, max_completion_length=LONGEST, temperature=1.0,
            beta=0.0, gradient_checkpointing=False, report_to="none", **settings,
        )  # fmt: skip
        trainer: Any = GRPOTrainer(
            model=model, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=arguments,
            processing_class=character_tokenizer(), train_dataset=Dataset.from_list([{"prompt": "1"}] * 32),
        )  # fmt: skip
    if float64:
        trainer._get_per_token_logps_and_entropies = _float64_logprobs
    trainer.current_gradient_accumulation_steps = 1  # its training loop sets this
    mask = torch.arange(LONGEST)[None] < torch.from_numpy(batch.lengths)[:, None]

    def padded(rows: list[Tensor]) -> Tensor:
        return torch.stack([torch.nn.functional.pad(row, (0, LONGEST - len(row))) for row in rows])

    model.train()
    inputs = {
        "prompt_ids": batch.prompts, "prompt_mask": torch.ones_like(batch.prompts),
        "completion_ids": padded(batch.responses), "completion_mask": mask.long(),
        "old_per_token_logps": padded(batch.old_logprobs), "advantages": per_response,
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    return _flat(trainer._compute_loss(model, inputs), model)


def _float64_logprobs(model: Any, input_ids: Tensor, attention_mask: Tensor, kept: int, **_: Any) -> Any:
    hidden = model.transformer(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0]
    # around the head, whose forward TRL replaces
    logprobs = torch.log_softmax(hidden[:, -kept - 1 : -1] @ model.lm_head.weight.T, -1)
    return logprobs.gather(2, input_ids[:, -kept:, None]).squeeze(2), torch.zeros(len(input_ids), kept), None


def trl_advantages(batch: Batch, scaled: bool, epsilon: float = TRL_STD_EPSILON) -> Tensor:
    """Return TRL's advantages [B]: minus the group's mean, over its sample standard deviation plus an epsilon."""
    grouped = torch.from_numpy(batch.rewards).view(QUESTIONS, ROLLOUTS)
    centred = grouped - grouped.mean(1, keepdim=True)
    return (centred / (grouped.std(1, keepdim=True) + epsilon) if scaled else centred).flatten()


def _flat(loss: Tensor, model: Any) -> Tensor:
    gradients = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    return torch.cat([own.flatten() for own in gradients])


def run() -> Result:
    """Compare every loss of `PEERS`, as it comes and aligned."""
    torch.set_num_threads(1)
    model = small_model()
    batch = make_batch(model)
    rows, worst = [], [0.0, 0.0]
    for peer in PEERS:
        row = ROWS[peer.row]
        ours, masked = our_gradient(model, batch, row)
        theirs = trl_gradient(model, batch, peer.settings, trl_advantages(batch, scaled=True))
        scaled = peer.aligned.get("scale_rewards") != "none"
        same = peer.settings | peer.aligned, trl_advantages(batch, scaled, 1e-6)
        gradients = (theirs, trl_gradient(model, batch, *same), trl_gradient(model, batch, *same, float64=False))
        found = [float((own - ours).abs().max()) for own in gradients]
        size = float(ours.abs().max())
        worst = [float(np.maximum(*own)) for own in zip(worst, [own / size for own in found[1:]], strict=True)]
        rows.append((peer.title, peer.row, f"{100 * masked:.0f} %", f"{found[0] / size:.1e}", peer.differs,
                     f"{found[1]:.1e}", f"{found[1] / size:.1e}", f"{found[2] / size:.1e}"))  # fmt: skip
        print("  ".join(map(str, rows[-1])), flush=True)
    what = "gradient's largest relative difference from TRL's, definitions alike"
    bounds = (Bound(f"{what}, log-probs in float64", worst[0], "at most", SAME),
              Bound(f"{what}, TRL's log-probs (float32)", worst[1], "at most", 1e-5))  # fmt: skip
    heads = ("TRL", "our row", "dropped by our mask", "relative difference, TRL as it comes", "what differs",
             "largest difference, aligned", "relative, aligned", "relative, aligned, TRL's log-probs")  # fmt: skip
    how = (
        f"The full gradient of a two-layer GPT-2 in float64 on {QUESTIONS} × {ROLLOUTS} responses of unequal lengths, "
        "autograd of the loss of TRL's `GRPOTrainer` against ours, same rewards and sampling log-probs, no step taken. "
        "Relative: to the largest entry of the gradient. Dr. GRPO, DAPO and GSPO are given the bounds of our rows; "
        "what TRL defines otherwise, and what was set alike for the last three columns, is in the table. TRL takes "
        "log-probs through a fused head in float32; the last column has those, the two before it float64 ones in "
        "TRL's loss."
    )
    return Result("peers", how, bounds, heads, tuple(rows))
