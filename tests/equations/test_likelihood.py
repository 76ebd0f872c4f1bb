"""Chunked log-probs and entropies against full logits, forward and backward, and the memory they may not take."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hpt.upge.likelihood import token_logprobs_and_entropy

TOKENS, WIDTH, VOCABULARY = 23, 5, 11


def inputs(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()

    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    return draw(TOKENS, WIDTH), draw(VOCABULARY, WIDTH), draw(VOCABULARY), targets


def full_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float, cap: float | None = None
) -> Any:
    logits = hidden @ weight.T if bias is None else hidden @ weight.T + bias
    log_p = torch.log_softmax((logits if cap is None else cap * torch.tanh(logits / cap)) / temperature, -1)
    return log_p.gather(1, targets[:, None]).squeeze(1), -(log_p.exp() * log_p).sum(-1)


def random_weights(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(2, TOKENS, generator=generator, dtype=torch.float64).to(dtype)
    return drawn[0], drawn[1]


LOSSES = {
    "logprobs": lambda logprobs, entropies, u, v: (u * logprobs).sum(),
    "entropies": lambda logprobs, entropies, u, v: (v * entropies).sum(),
    "both": lambda logprobs, entropies, u, v: (u * logprobs).sum() + (v * entropies).sum(),
}


@pytest.mark.parametrize("asked", sorted(LOSSES))
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("chunk", [1, 4, 1000, None])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_values_and_gradients_are_those_of_full_logits(
    asked: str, with_bias: bool, temperature: float, cap: float | None, chunk: int | None, dtype: torch.dtype,
    tolerance: float,
) -> None:  # fmt: skip
    hidden, weight, bias, targets = inputs(dtype)
    used_bias = bias if with_bias else None
    leaves = [hidden, weight, *([bias] if with_bias else [])]
    expected = full_logits(hidden, weight, used_bias, targets, temperature, cap)
    actual = token_logprobs_and_entropy(hidden, weight, targets, temperature, chunk, used_bias, cap)
    expected_gradients = torch.autograd.grad(LOSSES[asked](*expected, *random_weights(dtype)), leaves)
    gradients = torch.autograd.grad(LOSSES[asked](*actual, *random_weights(dtype)), leaves)
    for a, b in zip((*actual, *gradients), (*expected, *expected_gradients), strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_huge_logits_stay_finite(scale: float) -> None:
    hidden, weight, bias, targets = inputs(torch.float32, scale)
    logprobs, entropies = token_logprobs_and_entropy(hidden, weight, targets, bias=bias)
    (logprobs.sum() + entropies.sum()).backward()
    for value in (logprobs, entropies, hidden.grad, weight.grad, bias.grad):
        assert torch.isfinite(value).all()
    assert (entropies >= 0).all()


def test_bfloat16_logits_are_not_rounded() -> None:
    """The same as float32 on the same (bfloat16) numbers; logits rounded to 8 bits would be off by 1e-2."""
    hidden, weight, bias, targets = inputs(torch.bfloat16)
    actual = token_logprobs_and_entropy(hidden, weight, targets, bias=bias)
    assert actual[0].dtype == actual[1].dtype == torch.float32
    expected = full_logits(*(x.detach().float() for x in (hidden, weight, bias)), targets, 1.0)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_gradients_of_many_chunks_add_up_in_float32() -> None:
    """Each chunk's contribution is rounded (2^-9); a sum of 2,000 chunks in bfloat16 itself would stop growing."""
    tokens = 2000
    generator = torch.Generator().manual_seed(2)
    hidden = (1 + torch.rand(tokens, WIDTH, generator=generator)).bfloat16().requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).bfloat16().requires_grad_()
    targets = torch.randint(3, (tokens,), generator=generator)
    logprobs, entropies = token_logprobs_and_entropy(hidden, weight, targets, chunk_tokens=1)
    (logprobs.sum() + entropies.sum()).backward()
    wide = [x.detach().float().requires_grad_() for x in (hidden, weight)]
    expected = full_logits(*wide, None, targets, 1.0)
    (expected[0].sum() + expected[1].sum()).backward()
    for leaf, reference in zip((hidden, weight), wide, strict=True):
        assert leaf.grad.dtype == torch.bfloat16
        assert (leaf.grad.float() - reference.grad).norm() < 2**-8 * reference.grad.norm()


def test_a_parameter_may_be_taken_away_between_forward_and_backward() -> None:
    """What ZeRO-3 does: the data are swapped for an empty tensor after the forward pass and gathered again later."""
    hidden, weight, _, targets = inputs()
    expected = torch.autograd.grad(full_logits(hidden, weight, None, targets, 1.0)[0].sum(), [hidden, weight])
    parameter = nn.Parameter(weight.detach().clone())
    logprobs, _ = token_logprobs_and_entropy(hidden, parameter, targets, chunk_tokens=4)
    gathered = parameter.data
    parameter.data = torch.empty(0, dtype=torch.float64)
    parameter.data = gathered.clone()
    gathered.fill_(torch.nan)  # whoever kept the old storage would see this
    gradients = torch.autograd.grad(logprobs.sum(), [hidden, parameter])
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_frozen_inputs_get_no_gradient_and_no_tokens_one_of_zero() -> None:
    hidden, weight, bias, targets = inputs()
    logprobs, _ = token_logprobs_and_entropy(hidden, weight.detach(), targets, bias=bias.detach())
    logprobs.sum().backward()
    assert weight.grad is bias.grad is None
    with torch.no_grad():
        assert not token_logprobs_and_entropy(hidden, weight, targets)[0].requires_grad
    logprobs, entropies = token_logprobs_and_entropy(hidden[:0], weight, targets[:0])
    assert logprobs.shape == entropies.shape == (0,)
    (logprobs.sum() + entropies.sum()).backward()
    assert not weight.grad.any()


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return out


@pytest.mark.parametrize("asked", sorted(LOSSES))
def test_no_tensor_is_larger_than_a_chunk_of_logits(asked: str) -> None:
    tokens, vocabulary, width, chunk = 600, 500, 4, 16
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    targets = torch.randint(vocabulary, (tokens,))
    u = torch.ones(tokens)
    allowed = max(chunk * vocabulary, vocabulary * width, tokens * width)
    for function, largest in (
        (lambda: token_logprobs_and_entropy(hidden, weight, targets, chunk_tokens=chunk), allowed),
        (lambda: full_logits(hidden, weight, None, targets, 1.0), tokens * vocabulary),  # the measurement itself works
    ):
        with LargestTensor() as seen:
            LOSSES[asked](*function(), u, u).backward()
        assert seen.elements == largest
