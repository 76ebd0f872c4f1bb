"""Eq. 8-13: from graded rollouts to weighted trajectories.

`gate.py` maps a success rate P to (alpha, beta), Eq. 8-10; `methods.py` says what SFT, GRPO, LUFFY, SRFT and HPT are,
as data; `mixture.py` weighs every trajectory of a step for the loss of Eq. 13, counting over the whole step before
anything is left out. Start with `gate.py`. No model is opened here.
"""
