"""The published numbers, the paper's claims as tests on records, and an audit of the printed numbers.

`paper.json` is the only place a published number stands; `claims.py` judges each claim with a test of `claim_tests.py`;
`audit.py` holds the printed numbers against each other. Start with `claims.py`. Nothing is computed from a run that
the records do not hold.
"""
