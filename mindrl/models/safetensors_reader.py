"""Tensors of a Hugging Face directory by name, whichever of its safetensors files holds them."""

from pathlib import Path
from types import TracebackType

import torch
from safetensors import SafetensorError, safe_open

from mindrl.errors import RequestError
from mindrl.files import POINTER_REASON, is_pointer, read_json_object

INDEX = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"


class SafetensorsReader:
    """Opens files as they are needed and keeps them open inside the `with` block."""

    def __init__(self, directory: Path) -> None:
        """`RequestError` if the directory holds no safetensors weights."""
        self._directory = directory
        self._files: dict[str, safe_open] = {}
        self._index: dict[str, str] | None = None
        if (directory / INDEX).is_file():
            self._index = read_json_object(directory / INDEX).get("weight_map")
            if not isinstance(self._index, dict):
                raise RequestError(
                    f"{directory / INDEX} has no weight_map that names a file for each tensor."
                )
        elif not (directory / SINGLE_FILE).is_file():
            raise RequestError(f"{directory} holds neither {SINGLE_FILE} nor {INDEX}: no weights to load.")

    def __enter__(self) -> "SafetensorsReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.clear()

    def tensor(self, name: str) -> torch.Tensor:
        """On the host, in the type it has on disk."""
        file_name = SINGLE_FILE if self._index is None else self._index.get(name, "")
        if file_name and file_name not in self._files:
            self._files[file_name] = self._open(file_name)
        if not file_name or name not in self._files[file_name].keys():  # noqa: SIM118  no mapping
            raise RequestError(
                f"the weights in {self._directory} lack {name}, which the model's config.json implies."
            )
        return self._files[file_name].get_tensor(name)

    def _open(self, file_name: str) -> safe_open:
        path = self._directory / file_name
        try:
            return safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            if path.is_file() and is_pointer(path):
                raise RequestError(f"{path} {POINTER_REASON}") from error
            raise RequestError(
                f"{path} can't be read as safetensors: {error}; fetch or convert it again."
            ) from error
