"""The two terms beside the estimator: an entropy bonus and a KL penalty towards a frozen policy.

Both are sums over tokens [T], like the estimator's loss: ``scales`` [T] holds coefficient and denominators and is 0
outside the scope. A KL penalty can instead enter the advantage as k1 (Appendix B.2); that is the ``kl_coefficient`` of
REINFORCE's rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def entropy_bonus(entropies: Tensor, scales: Tensor) -> Tensor:
    """Return the bonus, sum_t scale_t H_t of exact entropies [T], nats; it is subtracted from the loss.

    Example:
        >>> import torch
        >>> entropy_bonus(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0])).item()
        0.5
    """
    return (scales * entropies).sum()


def kl_to_reference(logprobs: Tensor, ref_logprobs: Tensor, scales: Tensor) -> Tensor:
    """Return the k3 estimate of KL(pi || pi_frozen) on sampled tokens, sum_t scale_t (exp(d) - d - 1); it is added.

    d = log pi_frozen - log pi (Schulman 2020; Shao et al. 2024, Eq. 4). Never negative, and unbiased for tokens drawn
    from pi; its *gradient* is that of the estimate, not of the KL: in expectation it is grad KL(pi_frozen || pi).

    Example:
        >>> import torch
        >>> kl_to_reference(torch.zeros(2), torch.zeros(2), torch.ones(2)).item()
        0.0
    """
    difference = ref_logprobs - logprobs
    return (scales * (difference.exp() - difference - 1)).sum()
