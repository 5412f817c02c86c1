"""A stand-in for the package TransformerEngine, which needs an accelerator: its modules' parameters and extra states
under their names, as its sources have them, and nothing that computes.

With it, Megatron-core's own code for TransformerEngine says which keys a checkpoint needs. `install` comes before the
first import of Megatron-core."""

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any

import torch

VERSION = "2.8.0"


class Base(torch.nn.Module):
    """Every module has an extra state: an empty tensor unless FP8 is used."""

    def get_extra_state(self) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        del state


class Norm(Base):
    def __init__(self, hidden_size: int, **_: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(hidden_size))


class Linear(Base):
    def __init__(
        self, in_features: int, out_features: int, *, bias: bool, parallel_mode: str | None, **_: Any
    ) -> None:
        super().__init__()
        self.parallel_mode, self.use_bias = parallel_mode, bias
        self.weight = torch.nn.Parameter(torch.empty(out_features, in_features))
        if bias:
            self.bias = torch.nn.Parameter(torch.empty(out_features))


class LayerNormLinear(Linear):
    def __init__(self, in_features: int, out_features: int, **settings: Any) -> None:
        super().__init__(in_features, out_features, **settings)
        self.layer_norm_weight = torch.nn.Parameter(torch.empty(in_features))


class GroupedLinear(Base):
    def __init__(self, num_gemms: int, in_features: int, out_features: int, **_: Any) -> None:
        super().__init__()
        self.num_gemms, self.use_bias = num_gemms, False
        self.fp8_meta, self.fp8, self.fp8_calibration = {"fp8_checkpoint": False}, False, False
        for number in range(num_gemms):
            self.register_parameter(
                f"weight{number}", torch.nn.Parameter(torch.empty(out_features, in_features))
            )


class DotProductAttention(Base):
    def __init__(
        self,
        *,
        num_attention_heads: int,
        kv_channels: int,
        softmax_scale: float | None = None,
        cp_stream: Any = None,
        **_: Any,
    ) -> None:
        super().__init__()


class _Anything(type):
    """A class that has whatever is asked for: names that Megatron-core imports and that nothing here calls."""

    def __getattr__(cls, name: str) -> Any:
        return _anything(name)


def _anything(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Anything(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != "transformer_engine":
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = _anything
        if module.__name__ == "transformer_engine":
            module.__version__ = VERSION
        if module.__name__ == "transformer_engine.pytorch":
            for made in (Linear, LayerNormLinear, GroupedLinear, DotProductAttention):
                setattr(module, made.__name__, made)
            module.LayerNorm = module.RMSNorm = Norm


def install() -> None:
    """Put it where `import transformer_engine` finds it, in this process."""
    sys.meta_path.insert(0, _Finder())
    for name in ("", ".pytorch", ".common", ".common.recipe"):
        importlib.import_module(f"transformer_engine{name}")
