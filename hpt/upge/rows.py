"""Table 1 for readers that need no tensors (settings, methods, the command line)."""

from hpt.upge.estimator import ROWS
from hpt.upge.row import Row

__all__ = ["ROWS", "Row"]
