"""Public data sets: where they come from, how a row becomes a `Problem`, and what is checked on loading."""
