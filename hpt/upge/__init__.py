"""The Unified Policy Gradient Estimator: Eq. 6 of the paper, its four parts, and Table 1 as data.

    stabilization.py   the mask                      which tokens may move the policy
    reference.py       the denominator               pi_ref, which need not be a policy at all
    advantage.py       the advantage                 how good a trajectory was
    likelihood.py      the likelihood gradient       log pi of the policy and its entropy, in chunks
    aggregation.py     the scale of a trajectory     1/N, 1/n, 1/length, 1/L
    coefficient.py     a factor of a trajectory      1 everywhere but in SRFT
    regularisers.py    entropy bonus and KL penalty  the two terms outside the estimator
    row.py             a row of Table 1              four names and their constants
    estimator.py       Table 1, Eq. 6 and the loss   start reading there

Nothing is imported here, so that reading the table does not load torch.
"""
