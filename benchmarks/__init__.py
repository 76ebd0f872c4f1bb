"""Speed and memory, measured as ratios to a peer in the same run; run by `make bench`, never a timed test.

`smollm_questions` and `smollm_model` measure nothing: they make what scale `smollm` needs.
"""
