"""The configuration of a run: `load` reads it, `dump` writes it back, `Config` is what everything else receives."""

from mindrl.config.loading import dump, load
from mindrl.config.schema import Config

__all__ = ["Config", "dump", "load"]
