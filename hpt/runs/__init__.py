"""Run folders and records: which runs a table needs, making them, what they take, reading them back.

    catalogue.py       which runs each table and figure needs, as data      start reading here
    resolve.py         from names and settings to a resolved configuration
    make.py            what is missing, and making it
    pool.py            several runs side by side
    process.py         a run's process, and its place on this machine
    preload.py         what all jobs import, before they are forked
    cluster.py         or on the machines of a Ray cluster
    job.py             one run in one process: prepare, train, evaluate
    evaluations.py     the final evaluations of a run, and what it lacks
    folder.py          a run's folder, its status and its checksums
    records.py         finished runs as small files that travel, and making what they lack
    plan.py            how long, how much memory, how much disk
    compare.py         two runs beside each other
    doctor.py          what this machine lacks

It draws nothing; a run's numbers leave it as records and frames.
"""
