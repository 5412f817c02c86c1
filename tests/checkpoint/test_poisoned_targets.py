"""Output files that are full of another pattern beforehand come out the same: no byte is left as it was found.

The plan proof says so before anything is copied; this is the same said of the bytes."""

import os
from pathlib import Path

import pytest
import torch
from fp8_models import write_fp8_model
from hf_models import FAMILIES, write_model

from mindrl.checkpoint.conversion import hf_to_mcore, workers
from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf
from mindrl.checkpoint.conversion.from_fp8 import convert_fp8

PATTERNS = (0x00, 0xAA, 0xFF)
"""A new file's zeros, a pattern, and what is NaN in every type."""
PWRITE = os.pwrite


def poison(monkeypatch: pytest.MonkeyPatch, pattern: int) -> None:
    """Every output file is as long as it will be, and full of the pattern, before anything is written into it."""
    begin = workers._OpenFile.begin

    def poisoned(file: workers._OpenFile) -> None:
        def fill(descriptor: int, _: int) -> None:
            PWRITE(descriptor, bytes([pattern]) * file.plan.size, 0)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "ftruncate", fill)
            begin(file)
        assert os.fstat(file.target.descriptor).st_size == file.plan.size

    monkeypatch.setattr(workers._OpenFile, "begin", poisoned)


def written(result: Path) -> dict[str, bytes]:
    """What was copied."""
    paths = [*result.rglob("*.distcp"), *result.rglob("*.safetensors")]
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.parametrize("dtype", [None, "bfloat16"], ids=["as they are", "another type"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_byte_of_a_pattern_survives_there_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, dtype: str | None
):
    monkeypatch.setattr(hf_to_mcore, "LARGEST_FILE_BYTES", 30_000)
    hf = write_model(tmp_path / "hf", family, tied=False)
    results: list[dict[str, bytes]] = []
    for pattern in PATTERNS:
        place = tmp_path / f"{pattern:02x}"
        with monkeypatch.context() as patch:
            poison(patch, pattern)
            convert_hf_to_mcore(hf, place / "mcore", dtype=dtype, tensor_parallel_size=2, progress=False)
            convert_mcore_to_hf(place / "mcore", place / "back", max_file_bytes=30_000, progress=False)
        results.append({**written(place / "mcore"), **written(place / "back")})
    assert len(results[0]) >= 4
    assert results[0] == results[1] == results[2]


def test_no_byte_of_a_pattern_survives_where_fp8_is_dequantised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_fp8_model(
        write_model(tmp_path / "bf16", "deepseek_v3", dtype=torch.bfloat16), tmp_path / "fp8", num_files=3
    )
    results: list[dict[str, bytes]] = []
    for pattern in PATTERNS:
        place = tmp_path / f"{pattern:02x}"
        with monkeypatch.context() as patch:
            poison(patch, pattern)
            convert_fp8(tmp_path / "fp8", place / "hf", progress=False)
            convert_hf_to_mcore(tmp_path / "fp8", place / "mcore", progress=False)
        results.append({**written(place / "hf"), **written(place / "mcore")})
    assert results[0] == results[1] == results[2]


def test_a_byte_that_is_not_written_would_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hf = write_model(tmp_path / "hf", "llama")

    def one_byte_short(descriptor: int, data: memoryview, offset: int) -> int:
        PWRITE(descriptor, data[:-1] if len(data) > 1000 else data, offset)
        return len(data)

    results: list[dict[str, bytes]] = []
    for pattern in PATTERNS:
        with monkeypatch.context() as patch:
            poison(patch, pattern)
            patch.setattr(os, "pwrite", one_byte_short)
            convert_hf_to_mcore(hf, tmp_path / f"{pattern:02x}", progress=False)
        results.append(written(tmp_path / f"{pattern:02x}"))
    assert results[0] != results[1]
