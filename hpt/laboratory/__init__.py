"""The estimator laboratory: Section 2 of the paper as something one can run.

    exact.py       policies small enough that every trajectory is listed
    truth.py       exact expectations: the Common Objective, its gradient, both sides of every identity of Section 2

Nothing is imported here, so that reading about it does not load torch.
"""
