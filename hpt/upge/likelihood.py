"""The likelihood gradient of Eq. 6: log pi of the sampled tokens and the policy's entropy, without keeping the logits.

At a vocabulary of 151,936 the logits of 4,096 tokens are 2.3 GiB in float32, and plain autograd keeps several such
tensors. Here logits exist for one chunk of tokens at a time, in the forward pass and again in the backward pass, which
computes them anew from the hidden states.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Elements of a chunk of logits, 64 MiB in float32; small vocabularies go through in one chunk.
CHUNK_ELEMENTS = 2**24


def token_logprobs_and_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
    bias: Tensor | None = None,
    cap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return log pi(target) and the entropy of pi at every position.

    pi = softmax(z / temperature) with z = hidden weight^T + bias, or cap tanh(z / cap) in its place (Gemma 2's
    soft-capping).

    Gradients flow to hidden, weight and bias through both outputs; the entropy's is computed only if it is asked for.
    Not differentiable twice. ``weight`` may be a parameter whose data are taken away after the forward pass and brought
    back before the backward pass (ZeRO-3).

    Args:
        hidden: [T, H] float, last hidden states at the positions that predict the targets.
        weight: [V, H], the output embedding, same type.
        targets: [T] int64.
        temperature: sampling temperature, so that log pi is that of the law sampled from.
        chunk_tokens: tokens whose logits exist at once; None = as many as `CHUNK_ELEMENTS` allows.
        bias: [V] or None.
        cap: bound of the logits, or None.

    Returns:
        logprobs [T] and entropies [T] in nats; float32, or float64 for float64 inputs. bfloat16 inputs are multiplied
        with float32 accumulation and logits stay float32; only the logits' gradient is rounded to bfloat16 before its
        two products, and these are summed over chunks in float32.

    Example:
        >>> logprobs, entropies = token_logprobs_and_entropy(torch.zeros(1, 3), torch.zeros(4, 3), torch.tensor([2]))
        >>> logprobs.exp().item(), entropies.exp().item()
        (0.25, 4.0)
    """
    tokens = chunk_tokens or max(1, CHUNK_ELEMENTS // weight.shape[0])
    logprobs, entropies = _ChunkedLikelihood.apply(hidden, weight, bias, targets, temperature, tokens, cap)  # pyright: ignore
    return logprobs, entropies


class _ChunkedLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float, chunk: int,
        cap: float | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        total = hidden.shape[0]
        precise = torch.promote_types(hidden.dtype, torch.float32)
        logprobs, entropies, log_norms = (hidden.new_empty(total, dtype=precise) for _ in range(3))
        for start in range(0, total, chunk):
            part = slice(start, start + chunk)
            logits = _logits(hidden[part], weight, bias, temperature, cap)
            chosen = logits.gather(1, targets[part, None]).squeeze(1)
            # by hand, because torch.logsumexp would hold a second chunk at the same time as ours
            largest = logits.amax(1, keepdim=True)
            shifted = logits.sub_(largest)
            probabilities = shifted.exp()
            norm = probabilities.sum(1)
            log_norm = norm.log()
            # H = log norm - sum_v p_v shifted_v, with p still to be divided by the norm
            entropies[part] = log_norm - probabilities.mul_(shifted).sum(1) / norm
            log_norms[part] = log_norm + largest.squeeze(1)
            logprobs[part] = chosen - log_norms[part]
        ctx.save_for_backward(hidden, weight, bias, targets, log_norms, entropies)
        ctx.temperature, ctx.chunk, ctx.cap = temperature, chunk, cap
        ctx.set_materialize_grads(False)  # None instead of zeros where an output was not used
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch calls it with one gradient per output
        ctx: Any, grad_logprobs: Tensor | None, grad_entropies: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, log_norms, entropies = ctx.saved_tensors
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        precise = log_norms.dtype
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        # float32 even for bfloat16 weights: many chunks are added up
        grad_weight = torch.zeros_like(weight, dtype=precise) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=precise) if need_bias and bias is not None else None
        if grad_logprobs is None and grad_entropies is None:
            return (None,) * 7
        for start in range(0, hidden.shape[0], ctx.chunk):
            part = slice(start, start + ctx.chunk)
            logits = _logits(hidden[part], weight, bias, ctx.temperature, ctx.cap)
            # tanh' = 1 - tanh^2
            slope = None if ctx.cap is None else 1 - (logits * (ctx.temperature / ctx.cap)).square()
            grad_logits = _logit_gradient(
                logits.sub_(log_norms[part, None]),
                targets[part],
                None if grad_logprobs is None else grad_logprobs[part],
                None if grad_entropies is None else grad_entropies[part],
                entropies[part],
            ).div_(ctx.temperature)
            if slope is not None:
                grad_logits.mul_(slope)
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
            low = grad_logits.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = _product(low, weight)
            if grad_weight is not None:
                _add_product(grad_weight, low.t(), hidden[part])
        cast_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        cast_bias = None if grad_bias is None else grad_bias.to(weight.dtype)
        return grad_hidden, cast_weight, cast_bias, None, None, None, None


def _logit_gradient(
    log_probabilities: Tensor,
    targets: Tensor,
    grad_logprobs: Tensor | None,
    grad_entropies: Tensor | None,
    entropies: Tensor,
) -> Tensor:
    """Return d/dz of g_l log p_y + g_H H, overwriting ``log_probabilities`` [t, V].

    d log p_y / dz_v = 1[v = y] - p_v, and dH / dz_v = -p_v (log p_v + H).
    """
    if grad_entropies is None:
        assert grad_logprobs is not None
        gradient = log_probabilities.exp_().mul_(-grad_logprobs[:, None])
    else:
        probabilities = log_probabilities.exp()
        # -p (g_H (log p + H) + g_l)
        gradient = log_probabilities.add_(entropies[:, None]).mul_(grad_entropies[:, None])
        if grad_logprobs is not None:
            gradient.add_(grad_logprobs[:, None])
        gradient.mul_(probabilities).neg_()
    if grad_logprobs is not None:
        gradient.scatter_add_(1, targets[:, None], grad_logprobs[:, None])
    return gradient


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, cap: float | None) -> Tensor:
    logits = _product(hidden, weight.t())
    if bias is not None:
        logits.add_(bias)
    if cap is not None:
        logits.div_(cap).tanh_().mul_(cap)
    return logits if temperature == 1.0 else logits.div_(temperature)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right in float32 or better; a plain bfloat16 product would be rounded to 8 bits before the softmax."""
    if left.dtype in (torch.float32, torch.float64):
        return left @ right
    if left.is_cuda:  # gpu only
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right; in float32 and float64 without a second [V, H] tensor."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += _product(left, right)
