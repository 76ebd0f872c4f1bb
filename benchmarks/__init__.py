"""Speed and memory, measured as ratios to a peer in the same run; run by `make bench`, never a timed test.

Two measure no speed and write a file of the package: `smollm_questions` draws the questions of scale `smollm`, and
`checkpoint_error` measures the rows of Table 1 on a run.
"""
