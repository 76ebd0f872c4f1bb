"""Every loss as its paper writes it, for autograd to differentiate; nothing here comes from the estimator.

Rollouts are padded, [Q, n, L] for Q questions with n rollouts of at most L tokens, demonstrations [Q, L]. All losses
are to be minimised. `stop` is the papers' stop-gradient.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

STD_EPSILON = 1e-6


@dataclass(eq=False)
class Textbook:
    """What the papers' symbols stand for; tensors are float64.

    logp, old: log pi and log pi_old of the rollouts [Q, n, L]; mask [Q, n, L] 1 on tokens, 0 on padding.
    entropy: H_t of the rollouts [Q, n, L]. demo_*: the same of the demonstrations [Q, L].
    reward [Q, n], demo_reward [Q], kl [Q, n, L] (log pi_old - log pi_frozen), values [Q, n, L].
    clipped: tokens a random draw of Clip-Cov selected [Q, n, L].
    """

    logp: Tensor
    old: Tensor
    mask: Tensor
    entropy: Tensor
    demo_logp: Tensor
    demo_mask: Tensor
    demo_entropy: Tensor
    reward: Tensor
    demo_reward: Tensor
    kl: Tensor
    values: Tensor
    clipped: Tensor
    baseline: float
    longest: int

    @property
    def ratio(self) -> Tensor:
        """r_t, [Q, n, L]."""
        return torch.exp(self.logp - self.old)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each rollout, [Q, n]."""
        return self.mask.sum(-1)


def stop(x: Tensor) -> Tensor:
    """The papers' stop-gradient."""
    return x.detach()


def clipped_surrogate(ratio: Tensor, advantage: Tensor, eps_low: float, eps_high: float) -> Tensor:
    """min(r A, clip(r, 1 - eps_low, 1 + eps_high) A), PPO's Eq. 7."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - eps_low, 1 + eps_high) * advantage)


def group_advantage(t: Textbook, std: str = "sample") -> Tensor:
    """Eq. 17 for G_on, [Q, n, 1]."""
    centred = t.reward - t.reward.mean(1, keepdim=True)
    if std != "none":
        centred = centred / (t.reward.std(1, keepdim=True, correction=int(std == "sample")) + STD_EPSILON)
    return centred[..., None]


def pooled_demo_advantage(t: Textbook) -> Tensor:
    """Table 1's advantage over G_on u G_off, of the demonstration, [Q, 1]."""
    everyone = torch.cat([t.reward, t.demo_reward[:, None]], 1)
    return ((t.demo_reward - everyone.mean(1)) / (everyone.std(1) + STD_EPSILON))[:, None]


def token_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over all tokens of the batch."""
    return (values * mask).sum() / mask.sum()


def sequence_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over tokens, then over responses."""
    return ((values * mask).sum(-1) / mask.sum(-1)).mean()


def sft(t: Textbook) -> Tensor:
    """Cross-entropy, Eq. 14 as a token mean."""
    return -token_mean(t.demo_logp, t.demo_mask)


def generalised_advantage(t: Textbook, gamma: float, lam: float, beta: float) -> Tensor:
    """Schulman et al. 2015b, Eq. 16: the double sum, written out."""
    advantage = torch.zeros_like(t.logp)
    for q, i in torch.cartesian_prod(torch.arange(t.reward.shape[0]), torch.arange(t.reward.shape[1])):
        length = int(t.lengths[q, i])
        rewards = -beta * t.kl[q, i, :length]
        rewards = rewards + torch.nn.functional.one_hot(torch.tensor(length - 1), length) * t.reward[q, i]
        values = torch.cat([t.values[q, i, :length], torch.zeros(1, dtype=torch.float64)])
        delta = rewards + gamma * values[1:] - values[:-1]
        for s in range(length):
            advantage[q, i, s] = sum((gamma * lam) ** k * delta[s + k] for k in range(length - s))
    return advantage


def ppo(t: Textbook, gamma: float = 1.0, lam: float = 1.0, beta: float = 0.0) -> Tensor:
    """Schulman et al. 2017, Eq. 7, over the tokens of the batch."""
    return -token_mean(clipped_surrogate(t.ratio, generalised_advantage(t, gamma, lam, beta), 0.2, 0.2), t.mask)


def grpo(t: Textbook, std: str = "sample", eps: float = 0.2) -> Tensor:
    """Eq. 16: mean over questions, over the group, over the tokens of each response."""
    return -sequence_mean(clipped_surrogate(t.ratio, group_advantage(t, std), eps, eps), t.mask)


def dr_grpo(t: Textbook) -> Tensor:
    """Liu et al. 2025: no std; a sum over tokens divided by a constant."""
    surrogate = clipped_surrogate(t.ratio, group_advantage(t, "none"), 0.2, 0.2)
    return -((surrogate * t.mask).sum(-1) / t.longest).mean()


def dapo(t: Textbook) -> Tensor:
    """Yu et al. 2025, Eq. 8: clip-higher, mean over the tokens of the batch."""
    return -token_mean(clipped_surrogate(t.ratio, group_advantage(t), 0.2, 0.28), t.mask)


def clip_cov(t: Textbook) -> Tensor:
    """Cui et al. 2025b: gradients of the selected tokens are detached from PPO's surrogate."""
    surrogate = clipped_surrogate(t.ratio, group_advantage(t), 0.2, 0.2)
    return -token_mean(torch.where(t.clipped, stop(surrogate), surrogate), t.mask)


def trajectory_logp(t: Textbook) -> Tensor:
    """log pi of whole responses, [Q, n]."""
    return (t.logp * t.mask).sum(-1)


def penalised_reward(t: Textbook, beta: float) -> Tensor:
    """R(x, y) - beta log pi / pi_frozen, Ahmadian et al. 2024."""
    return t.reward - beta * (t.kl * t.mask).sum(-1)


def reinforce(t: Textbook) -> Tensor:
    """Table 1 as printed."""
    return -((2 * t.reward - 1) * trajectory_logp(t)).mean()


def reinforce_baseline(t: Textbook, beta: float = 0.0) -> Tensor:
    """Ahmadian et al. 2024 with a running baseline."""
    return -((penalised_reward(t, beta) - t.baseline) * trajectory_logp(t)).mean()


def rloo(t: Textbook, beta: float = 0.0) -> Tensor:
    """Ahmadian et al. 2024, with the sum over j != i written out."""
    reward = penalised_reward(t, beta)
    n = reward.shape[1]
    sums = [torch.stack([reward[:, j] for j in range(n) if j != i]).sum(0) for i in range(n)]
    others = torch.stack(sums, 1) / (n - 1)
    return -((reward - others) * trajectory_logp(t)).mean()


def reinforce_plus_plus(t: Textbook, beta: float = 0.0) -> Tensor:
    """Hu et al. 2025a: r(x, y) - beta sum_{s >= t} KL(s), normalised over the batch, in PPO's surrogate."""
    to_go = (t.kl * t.mask).flip(-1).cumsum(-1).flip(-1)
    returns = t.reward[..., None] - beta * to_go
    mean = token_mean(returns, t.mask)
    std = token_mean((returns - mean) ** 2, t.mask).sqrt()
    return -token_mean(clipped_surrogate(t.ratio, (returns - mean) / (std + STD_EPSILON), 0.2, 0.2), t.mask)


def cispo(t: Textbook, eps_low: float = 1.0, eps_high: float = 0.28) -> Tensor:
    """MiniMax-M1, Eq. 4: sg(clip(r)) A log pi, over the tokens of the batch."""
    return -token_mean(stop(t.ratio.clamp(1 - eps_low, 1 + eps_high)) * group_advantage(t) * t.logp, t.mask)


def gspo(t: Textbook, eps_low: float = 3e-4, eps_high: float = 4e-4) -> Tensor:
    """Zheng et al. 2025, Eq. 5: the sequence ratio carries the gradient."""
    s = torch.exp(((t.logp - t.old) * t.mask).sum(-1) / t.lengths)
    return -clipped_surrogate(s, group_advantage(t)[..., 0], eps_low, eps_high).mean()


def srft_offline(t: Textbook) -> Tensor:
    """Eq. 19 on the demonstrations."""
    return -sequence_mean(torch.exp(t.demo_logp) * pooled_demo_advantage(t), t.demo_mask)


def srft_sft(t: Textbook) -> Tensor:
    """Fu et al. 2025: w_SFT = 0.5 stop(exp(-H))."""
    entropy = (t.demo_entropy * t.demo_mask).sum(-1) / t.demo_mask.sum(-1)
    return -token_mean(0.5 * stop(torch.exp(-entropy))[:, None] * t.demo_logp, t.demo_mask)


def srft_rollout(t: Textbook) -> Tensor:
    """Fu et al. 2025: right answers 0.1 stop(exp(H)) log pi, wrong ones -log pi."""
    weight = 0.1 * stop(torch.exp((t.entropy * t.mask).sum(-1) / t.lengths))
    objective = torch.where(t.reward > 0, weight * trajectory_logp(t), -trajectory_logp(t))
    return -(objective / t.longest).mean()


def luffy_offline(t: Textbook, gamma: float = 0.1) -> Tensor:
    """Yan et al. 2025: f(pi) A over Z, the tokens of rollouts and demonstrations together."""
    p = torch.exp(t.demo_logp)
    shaped = p / (p + gamma) * pooled_demo_advantage(t) * t.demo_mask
    return -shaped.sum() / (t.mask.sum() + t.demo_mask.sum())


def offline_unshaped(t: Textbook) -> Tensor:
    """LUFFY's offline term with f(p) = p."""
    unshaped = torch.exp(t.demo_logp) * pooled_demo_advantage(t) * t.demo_mask
    return -unshaped.sum() / (t.mask.sum() + t.demo_mask.sum())


def dft(t: Textbook) -> Tensor:
    """Wu et al. 2025: sg(p) log p."""
    return -token_mean(stop(torch.exp(t.demo_logp)) * t.demo_logp, t.demo_mask)
