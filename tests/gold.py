"""What a verifier grades against; verifiers' workers import it, so it imports nothing that is large."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gold:
    """An answer that is right."""

    answer: str
    answer_kind: str = "math"
