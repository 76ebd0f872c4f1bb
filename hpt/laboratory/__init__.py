"""Section 2 measured: exact gradients of small enumerable policies, bias and variance, checks of a user's algorithm.

`table1.py` holds every row against its textbook loss, `derivation.py` the paper's formulas against each other,
`errors.py` and `gates.py` measure rows and gates on the policies of `exact.py`, and `checker.py` is
`hpt.check_gradient`, on the batch of `random_batch.py`. All is exact sums or seeded draws and needs no run; what was
measured on one (`benchmarks/checkpoint_error.py`) is read from two files. Start with `table1.py`, then `experiment.py`.
"""
