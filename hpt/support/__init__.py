"""What every room stands on: errors with a remedy, whole-file writes and locks, plug-ins, facts of the machine.

It knows nothing of the paper. Start with `errors.py`: every refusal of the package names the field, its value, what is
allowed and what to do.
"""
