"""The small worlds: programs of look-ups with an imperfect teacher, and questions of reasoning-gym for SmolLM2.

Start with `lookup.py`, which makes questions, demonstrations and evaluation sets; `lookup_corpus.py` makes the
documents that bases are trained on. Everything is a function of recorded seeds.
"""
