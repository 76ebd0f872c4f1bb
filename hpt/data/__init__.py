"""Questions and demonstrations: the synthetic worlds, public sets, a user's files; prompts; model folders.

    problems.py        a question with its answer and demonstration      start reading here
    prompts.py         templates, and from questions to tokens
    sources.py         which questions a run trains on and is evaluated on
    files.py           rows of files and of hub sets, and the shapes that are known
    public.py          the paper's public sets, as data
    store.py           public sets on this disk, with their hashes
    models.py          model folders: checking, hashing, fetching
    leakage.py         training questions that are also test questions
    packaged.py        a model that a registry package ships as GGUF
    world/             the small worlds, and the documents their bases learn from

It never samples and never trains.
"""
