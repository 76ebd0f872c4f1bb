"""Graded arithmetic: chains of sums and products, demonstrations of an imperfect teacher, and the bases' corpus.

`graded.py` makes the training questions, `sets.py` the evaluation sets, `corpus.py` the documents that bases are
trained on. Everything is a function of recorded seeds.
"""
