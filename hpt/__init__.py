"""hpt: check, understand and change *Towards a Unified View of Large Language Model Post-Training*."""

__version__ = "0.1.0"
