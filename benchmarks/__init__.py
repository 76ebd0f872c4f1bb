"""Speed and memory, measured as ratios to a peer in the same run; run by `make bench`, never a timed test.

`smollm_questions` measures nothing: it draws the questions of scale `smollm`.
"""
