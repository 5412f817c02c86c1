"""Any of the kinds of weights that are converted, seen as the Hugging Face tensors of a map, to be compared."""

from pathlib import Path

from mindrl.checkpoint.byte_plan import Record, Tile
from mindrl.checkpoint.conversion.mcore_to_hf import mcore_records
from mindrl.checkpoint.directories import latest_weights
from mindrl.checkpoint.expected import expected_tensors
from mindrl.checkpoint.formats.safetensors_files import read_model
from mindrl.checkpoint.saved_weights import open_checkpoint
from mindrl.weight_maps import WeightMap


def is_hf_directory(path: Path) -> bool:
    """Whether a directory is a Hugging Face model, not a checkpoint."""
    return (path / "config.json").exists()


def hf_records(path: Path, weights: WeightMap, dtype: str | None = None) -> dict[str, Record]:
    """Every tensor of the map in a Hugging Face directory or a checkpoint, as a record at offset 0.

    `dtype` None keeps what is stored (of FP8, the type of its values); `RequestError` where it is not that model."""
    if not is_hf_directory(path):
        with open_checkpoint(latest_weights(path)) as saved:
            return mcore_records(weights, saved, dtype)
    stored, _ = expected_tensors(weights, read_model(path), path)
    kept = {source.name for rule in weights.rules if rule.keeps_dtype for source in rule.hf}
    records: dict[str, Record] = {}
    for name, tensor in stored.items():
        rows, columns = tensor.rows, tensor.columns
        tile = Tile(tensor, 0, 0, 0, 0, rows, columns)
        kind = tensor.value_dtype if dtype is None or name in kept else dtype
        records[name] = Record(name, 0, rows, columns, kind, (tile,))
    return records
