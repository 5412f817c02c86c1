"""Unpickling that runs nothing: every name in a pickle stands for one of a few harmless classes, or for nothing.

Those classes are sealed, so that a pickle can't change them either for whatever this process reads next."""

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

DAMAGE = (
    pickle.UnpicklingError, EOFError, AttributeError, KeyError, TypeError, IndexError, ValueError, OverflowError,
    MemoryError, RecursionError, ImportError,
)  # fmt: skip
"""What a damaged pickle can raise."""
DTYPE_NAMES = frozenset(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))
_STORAGES = {
    "FloatStorage": "float32", "BFloat16Storage": "bfloat16", "HalfStorage": "float16", "DoubleStorage": "float64",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "untyped",
}  # fmt: skip


class Sealed(type):
    """Classes that can't be changed."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise TypeError(f"{cls.__name__}.{name} can't be set")


class Inert(metaclass=Sealed):
    """Stands for a pickled class that reading has no use for."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...

    def add(self, item: Any) -> None: ...


class Fields(Inert):
    """Stands for a class whose attributes are of use."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update({name: value for name, value in state.items() if not name.startswith("__")})


class PickledTensor(NamedTuple):
    """A tensor as a pickle describes it: a view of a storage, which lies elsewhere. Nothing of it is checked."""

    storage: str
    dtype: str
    first: int
    """Value of the storage that it starts at."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Size(metaclass=Sealed):
    def __new__(cls, sizes: Any = ()) -> Any:
        return tuple(sizes)


class _RebuildTensor(metaclass=Sealed):
    def __new__(cls, storage: Any, first: Any, shape: Any, strides: Any, *rest: Any) -> Any:
        dtype, key = storage
        if dtype == "untyped":  # _rebuild_tensor_v3: requires_grad, hooks, dtype
            dtype = rest[2]
        return PickledTensor(key, dtype, first, tuple(shape), tuple(strides))


class _RebuildParameter(metaclass=Sealed):
    def __new__(cls, data: Any, *_: Any) -> Any:
        return data


class _Set(metaclass=Sealed):
    def __new__(cls, *_: Any) -> Any:
        return set[Any]()


PLAIN: dict[tuple[str, str], Any] = {
    ("torch", "Size"): _Size,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): _Set,
    **{("torch", name): name for name in DTYPE_NAMES},
}
"""Values that are no tensors."""
TENSORS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor,
    ("torch._utils", "_rebuild_tensor_v3"): _RebuildTensor,
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _RebuildParameter,
    **{("torch", storage): dtype for storage, dtype in _STORAGES.items()},
    ("torch.storage", "UntypedStorage"): "untyped",
}


def unpickled(
    data: bytes, known: Mapping[tuple[str, str], Any], *, others: type[Inert] | None = Inert
) -> Any:
    """The object in a pickle, tensors as `PickledTensor`; names that are not `known` stand for `others` (None: refused).

    Raises one of `DAMAGE` for what is no pickle."""
    return _Unpickler(data, known, others).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, known: Mapping[tuple[str, str], Any], others: type[Inert] | None) -> None:
        super().__init__(io.BytesIO(data))
        self._known, self._others = known, others

    def persistent_load(self, pid: Any) -> tuple[Any, str]:
        """("storage", class, key, device, number of values) -> (dtype, key)"""
        return pid[1], str(pid[2])

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._known:
            return self._known[module, name]
        if self._others is None:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of a saved weight")
        return self._others
