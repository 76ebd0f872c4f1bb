"""The Unified Policy Gradient Estimator: Eq. 6 of the paper, its four parts, and Table 1 as data.

    estimator.py       Table 1, Eq. 6 and the loss   start reading here
    row.py             a row of Table 1              four names and their constants, and the tokens they act on
    stabilization.py   the mask                      which tokens may move the policy
    reference.py       the denominator               pi_ref, which need not be a policy at all
    advantage.py       the advantage                 how good a trajectory was
    likelihood.py      the likelihood gradient       log pi of the policy and its entropy, in chunks
    aggregation.py     the scale of a trajectory     1/N, 1/n, 1/length, 1/L, and SRFT's factor
    regularisers.py    entropy bonus and KL penalty  the two terms outside the estimator

It never reads a file, a setting or a model's name. Nothing is imported here, so that reading the table loads no torch.
"""
