"""Data sets of the Hugging Face hub, by name: their files, fetched into its cache."""

import fnmatch
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mindrl.errors import RequestError

HUB_PREFIX = "hf://datasets/"

_REVISION = (
    r"refs/(?:convert|pr)/[\w.-]+|[\w.-]+"  # the hub's own conversions to parquet, a branch, a tag, a commit
)
_NAME = re.compile(rf"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>{_REVISION}))?(?:/(?P<pattern>.+))?")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")


class HubName(NamedTuple):
    """`hf://datasets/<repository>[@<revision>][/<pattern of files>]`."""

    repository: str
    revision: str | None
    pattern: str | None


def parse(source: str) -> HubName:
    """Take the name apart; `RequestError` for one that is none."""
    match = _NAME.fullmatch(source.removeprefix(HUB_PREFIX))
    if not match:
        raise RequestError(
            f"input {source}: no name of a data set; write {HUB_PREFIX}OWNER/NAME, with @REVISION and /FILES behind "
            "it where needed"
        )
    return HubName(*match.group("repository", "revision", "pattern"))


def download(source: str, is_readable: Callable[[str], bool]) -> list[Path]:
    """Fetch the data set's files, or find them in the hub's cache, and return them in order of their names.

    `RequestError` where the hub can't be reached or has no such files, or where it has several sets of them and
    `source` does not say which."""
    import httpx
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HFValidationError

    name = parse(source)
    try:
        known = HfApi().list_repo_files(name.repository, revision=name.revision, repo_type="dataset")
        chosen = choose(source, name.pattern, [file for file in known if is_readable(file)])
        return [
            Path(hf_hub_download(name.repository, file, revision=name.revision, repo_type="dataset"))
            for file in chosen
        ]
    except (OSError, httpx.HTTPError, HFValidationError) as error:  # the hub's own errors are OSErrors
        reason = str(error).strip().partition("\n")[0]
        where = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        raise RequestError(
            f"input {source}: can't be fetched from {where}: {reason}; where there is a network, run "
            f"`hf download {name.repository} --repo-type dataset --local-dir DIR`, then give the file in DIR as "
            "input (HF_ENDPOINT names a mirror, HF_TOKEN opens gated data)"
        ) from error


def choose(source: str, pattern: str | None, names: Sequence[str]) -> list[str]:
    """The files that `pattern` names; without one, those of the only set there is."""
    wanted = sorted(name for name in names if pattern is None or fnmatch.fnmatchcase(name, pattern))
    if not wanted:
        raise RequestError(f"input {source}: has no such file of rows; it has {', '.join(names) or 'none'}")
    sets = sorted({_SHARD.sub("-*", name) for name in wanted})
    if pattern is None and len(sets) > 1:
        raise RequestError(
            f"input {source}: holds several sets; say which: {', '.join(f'{source}/{each}' for each in sets)}"
        )
    return wanted
