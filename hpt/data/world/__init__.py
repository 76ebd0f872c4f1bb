"""The small worlds: programs of look-ups with an imperfect teacher, and questions of reasoning-gym for SmolLM2.

Start with `lookup.py`, which makes questions, demonstrations and evaluation sets; `lookup_corpus.py` makes the
documents that bases are trained on, and `tokenizer.py` splits them into characters. `gym.py` reads SmolLM2's questions
from `smollm.jsonl`. Everything is a function of recorded seeds, and nothing is trained here.
"""
