"""Tokens that end a response."""

import json
from pathlib import Path

from mindrl.errors import RequestError


def stop_token_ids(hf_dir: Path) -> tuple[int, ...]:
    """Every end-of-sequence id that the directory's generation_config.json and config.json name, sorted."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        path = hf_dir / name
        if path.is_file():
            value = json.loads(path.read_text()).get("eos_token_id")
            found.update(value if isinstance(value, list) else [value] if value is not None else [])
    if not found:
        raise RequestError(
            f"{hf_dir}: neither generation_config.json nor config.json names an eos_token_id, so no response could "
            "ever end. Add the id of the model's closing token to config.json."
        )
    return tuple(sorted(found))
