"""Eq. 7: is a response right? Its last box, math-verify on it, in worker processes that can be killed.

`verify.py` finds the box and asks math-verify; `workers.py` runs that in processes with limits on time and memory;
`guard.py` refuses them files and network, because a model's answer is hostile input. Start with
`verify.py`. Nothing here trains.
"""
