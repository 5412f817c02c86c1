"""Tokens that end a response."""

from pathlib import Path

from mindrl.errors import RequestError
from mindrl.files import read_json_object


def stop_token_ids(hf_dir: Path) -> tuple[int, ...]:
    """Every end-of-sequence id that the directory's generation_config.json and config.json name, sorted."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        path = hf_dir / name
        if path.is_file():
            value = read_json_object(path).get("eos_token_id")
            ids = value if isinstance(value, list) else [value] if value is not None else []
            if not all(isinstance(token, int) and token >= 0 for token in ids):
                raise RequestError(
                    f"{path}: eos_token_id is {value!r}, expected a token id or a list of them."
                )
            found.update(ids)
    if not found:
        raise RequestError(
            f"{hf_dir}: neither generation_config.json nor config.json names an eos_token_id, so no response could "
            "ever end. Add the id of the model's closing token to config.json."
        )
    return tuple(sorted(found))
