"""Run folders and records: which runs a table needs, making them, what they take, reading them back.

folder.py          a run's folder, its status and its checksums
resolve.py         from names and settings to a resolved configuration
catalogue.py       which runs each table and figure needs, as data
make.py            what is missing, and making it
job.py             one run in one process: prepare, train, evaluate
pool.py            several runs side by side
records.py         finished runs as small files that travel
plan.py            how long, how much memory, how much disk
compare.py         two runs beside each other
doctor.py          what this machine lacks
"""
