"""Section 2 measured: exact gradients of small enumerable policies, bias and variance, checks of a user's algorithm.

Start with `table1.py` (every row against its textbook loss) and `experiment.py` (bias and variance of every row).
No run is needed; everything is exact sums or seeded draws.
"""
