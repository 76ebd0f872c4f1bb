"""What every room stands on: errors with a remedy, whole-file writes and locks, plug-ins, facts of the machine.

    errors.py          every refusal names the field, its value, what is allowed and the remedy      start reading here
    files.py           files, folders and tables written whole or not at all, checksums, locks
    plugins.py         functions and methods of the user's modules and of installed packages
    process.py         environment variables and child processes
    memory.py, text.py facts of the machine, words for readers

It knows nothing of the paper.
"""
