"""Every public data set of the paper as data: source, shape of its rows, sizes and hashes it must have.

Where sizes and choices come from: the paper's Section 3.1, the authors' released scripts and evaluation files
(TsinghuaC3I/Unify-Post-Training, commit ae332f5) and the evaluation script they name (zwhe99/DeepMath, `uni_eval.py`).
Where the paper and the release differ (AMC 40 or 83 problems, OlympiadBench 674 or 675), both are here by name.
"""

from dataclasses import dataclass
from typing import Literal

from hpt.data.problems import AnswerKind
from hpt.support.errors import ConfigError

#: Seed of the order in which the choices of GPQA are shown; part of every content hash.
CHOICE_SEED = 0


@dataclass(frozen=True)
class Subset:
    """A drawn part of another set: ``per_level`` problems of each of ``levels``, chosen by ``seed``."""

    of: str
    levels: tuple[int, ...]
    per_level: int
    seed: int


@dataclass(frozen=True)
class Dataset:
    """One public set."""

    name: str  # what the command line and settings call it
    title: str  # the paper's name
    use: Literal["training", "evaluation"]  # training sets hold demonstrations
    shapes: tuple[str, ...]  # of `hpt.data.files.SHAPES` its rows may have, the hub's first
    rows: tuple[int, int]  # fewest and most; a truncated set is refused
    hub: str = ""  # repository; "" for a set that only exists as a file (`hpt data download --from`)
    split: str = "test"
    config: str | None = None
    revision: str | None = None  # None = newest, recorded when downloaded
    answer_kind: AnswerKind = "math"
    samples_per_problem: int = 1  # in the tables: avg@32 or avg@1
    distribution: Literal["in", "out"] = "in"
    known: str = ""  # SHA-256 of its problems in the release's data/*/test.json; other content in that shape is refused
    subset: Subset | None = None  # how it is drawn from another set; it has no source then

    @property
    def size(self) -> str:
        """The expected number of rows, in words."""
        fewest, most = self.rows
        return f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"


DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        # its maintainer speaks of 45k rows, its name of 46k; the count found is recorded when downloaded
        Dataset(
            "openr1-math-46k", "OpenR1-Math-46k-8192", "training", ("openr1",), (44_000, 47_000),
            hub="Elliott/Openr1-Math-46k-8192", split="train",
        ),
        # the second stage of the released SFT -> GRPO; prompts disjoint from the 46k
        Dataset(
            "openr1-math-48k-complement", "OpenR1-Math-48k-Complement", "training", ("openr1",), (46_000, 50_000),
            hub="Elliott/Openr1-Math-48k-Complement", split="train",
        ),
        Dataset(
            "math", "MATH without MATH-500", "training", ("math",), (12_000, 12_000),
            hub="nlile/hendrycks-MATH-benchmark", split="train", revision="465bcdb36f5962aa3512891498966df785fc3c18",
        ),
        # Figures 3 and 4; the authors' choice of problems is not published
        Dataset(
            "math-255", "MATH, 85 problems of each of Levels 3, 4, 5", "training", ("math",), (255, 255),
            subset=Subset("math", (3, 4, 5), 85, seed=255),
        ),
        Dataset(
            "aime24", "AIME 24", "evaluation", ("expected", "released"), (30, 30), samples_per_problem=32,
            hub="zwhe99/aime90", split="2024",
            known="fb75398f5a662903e12ae3e5100f0e29f771642eb0303c1cd22ba1863281e5ea",
        ),
        Dataset(
            "aime25", "AIME 25", "evaluation", ("problem", "released"), (30, 30), samples_per_problem=32,
            hub="math-ai/aime25",
            known="788de7455dcd153a74d47e371681a464240a89f2e99c51a81f273db9a7a90279",
        ),
        # AMC 12 of 2022 and 2023: the tables' 83 problems
        Dataset(
            "amc", "AMC", "evaluation", ("problem",), (83, 83), samples_per_problem=32,
            hub="AI-MO/aimo-validation-amc", split="train", revision="69d78a4a2c840e82d69af6bc742bda09005f6316",
        ),
        # the 40 problems of the curves drawn in training; all among the 83
        Dataset(
            "amc23", "AMC 23", "evaluation", ("question", "released"), (40, 40), samples_per_problem=32,
            hub="zwhe99/amc23",
            known="2c54e4e0e802bb1283d27e3c52643e69aec5c4ff6d4e7c0e0e27854fd602aa39",
        ),
        Dataset(
            "math-500", "MATH-500", "evaluation", ("math", "released"), (500, 500), hub="HuggingFaceH4/MATH-500",
            known="a54ab1a6898d81175be47372b58d4ac43f09f6ff5200e54be293109e5acbb2bf",
        ),
        Dataset(
            "minerva", "Minerva", "evaluation", ("problem", "released"), (272, 272), hub="zwhe99/simplerl-minerva-math",
            known="1ee331f04e98d566e8077600a6e0657c44f28ae22aaa862d4c9e53675365692d",
        ),
        # every printed score fits 675 problems, many do not fit 674
        Dataset(
            "olympiad", "OlympiadBench", "evaluation", ("final_answer",), (675, 675),
            hub="zwhe99/simplerl-OlympiadBench",
        ),
        # data/Olympiad-Bench/test.json of the release; 16 of the 675 questions are not in it word for word
        Dataset(
            "olympiad-674", "OlympiadBench (released file)", "evaluation", ("released",), (674, 674),
            known="e3c600ab515444f9d7420426b6d40d23d79d5d845df4a77956d1cdac9608ea1c",
        ),
        # prompts of the paper are not published; the choices stand below the question, one a line
        Dataset(
            "arc-c", "ARC-c", "evaluation", ("choices",), (1172, 1172), answer_kind="choice", distribution="out",
            hub="allenai/ai2_arc", config="ARC-Challenge",
        ),
        # gated on the hub; the released file has its choices in another order than `CHOICE_SEED` draws
        Dataset(
            "gpqa-diamond", "GPQA", "evaluation", ("gpqa", "released"), (198, 198), answer_kind="choice",
            hub="Idavidrein/gpqa", config="gpqa_diamond", split="train", distribution="out",
            known="c3eca55d494a31541c4140e9f4383990fcaeb1f63e695273ccd120560233691f",
        ),
    )
}  # fmt: skip

#: The paper's tables, in their order, and the curves drawn while training.
BENCHMARKS = ("aime24", "aime25", "amc", "math-500", "minerva", "olympiad", "arc-c", "gpqa-diamond")
CURVES = ("aime24", "amc23", "math-500")


def dataset_named(name: str) -> Dataset:
    """Return a public set."""
    if name not in DATASETS:
        raise ConfigError("data set", name, "one of " + ", ".join(DATASETS), "see `hpt data check`")
    return DATASETS[name]
