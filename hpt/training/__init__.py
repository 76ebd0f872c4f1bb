"""Algorithm 1, on DeepSpeed with vLLM rollouts.

    trainer.py         Algorithm 1                       start reading at `Trainer.train`
    sampler.py         vLLM: draws every response        the only module that uses it
    engine.py          DeepSpeed: forward, backward, one guarded step
    policy.py          trajectories laid into micro-batches, the model with a chunked output head
    guards.py          sampler against trainer log-probs; steps that went wrong: skipped, counted, or the end
    checkpoint.py      everything a run needs to continue to identical records
    shards.py          an optimiser's state written by some ranks and read by others
    ranks.py           several processes: launching, joining, watching each other
    metrics.py         a step's row of every number that metrics.csv defines
    bases.py           base models of the small worlds, trained with the SFT row

It knows no table, figure or claim, and writes only into the folder it is given.
"""
