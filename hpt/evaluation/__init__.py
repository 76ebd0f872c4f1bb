"""Answers and scores: sampling an evaluation set, avg@k, pass@k, exclusive solves, intervals.

`evaluate.py` samples and grades answers; `scores.py` computes every score from the same table of answers;
`intervals.py` has intervals over seeds and over problems, which are never mixed. Start with `scores.py`. Nothing here
trains or decides a claim.
"""
