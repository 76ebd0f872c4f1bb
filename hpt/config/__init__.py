"""Every setting of a run, and the values that scales and recipes give them.

`settings.py` lists every setting with its default, range and meaning; `run_config.py` puts them together, checks them
and makes the fingerprint; `scales.py` holds the values of `tiny`, `mini`, `smollm`, `gpu` and `full`, of the recipes,
and what the search chose. Start with `settings.py`. Names of methods, gates and rows are texts here:
`hpt.runs.resolve` looks them up, and nothing is read from disk.
"""
