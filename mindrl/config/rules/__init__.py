"""Rules between keys that need no files and no devices: each says what is wrong and what to do, or returns None.

They run together, so that one attempt shows every broken rule. Rules that need the model's architecture are in
`mindrl.planning.checks`.
"""

from mindrl.config.rules import batches, layout, learning, sampling  # each adds its own
from mindrl.config.rules.table import RULES, broken

__all__ = ["RULES", "batches", "broken", "layout", "learning", "sampling"]
