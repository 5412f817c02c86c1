"""A Megatron checkpoint that was damaged on its way is not converted: the checksums in it are compared while copying."""

import zlib
from pathlib import Path

import pytest
from hf_models import assert_same_bits, write_model
from hypothesis import given
from hypothesis import strategies as st

from mindrl.checkpoint.conversion import copying
from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf
from mindrl.checkpoint.conversion.source_checksums import combined
from mindrl.checkpoint.formats.torch_dist import read_archives
from mindrl.errors import RequestError

LARGER_THAN_WHAT_IS_AROUND = 4000
"""Bytes of an archive whose middle is in the values of its tensor."""


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_checksums_of_two_parts_combine_to_that_of_both(first, second):
    assert combined(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


def test_so_do_those_of_parts_longer_than_four_gigabytes():
    crc, megabyte = zlib.crc32(b"weights"), zlib.crc32(bytes(1 << 20))
    by_parts = crc
    for _ in range(5 << 12):
        by_parts = combined(by_parts, megabyte, 1 << 20)
    zeros = 0
    for _ in range(5):
        zeros = combined(zeros, _zeros_of_a_gigabyte(), 4 << 30)
    assert by_parts == combined(crc, zeros, 20 << 30)


def _zeros_of_a_gigabyte() -> int:
    crc, size = zlib.crc32(bytes(1 << 20)), 1 << 20
    while size < 4 << 30:
        crc, size = combined(crc, crc, size), 2 * size
    return crc


@pytest.mark.parametrize("family", ["qwen2", "qwen3_moe", "deepseek_v3"])
def test_one_flipped_bit_in_any_archive_of_a_weight_is_found(tmp_path, family, monkeypatch):
    monkeypatch.setattr(copying, "PIECE_BYTES", 700)
    mcore = _converted(tmp_path, family)
    archives = [
        saved for saved in read_archives(mcore / "release") if saved.length > LARGER_THAN_WHAT_IS_AROUND
    ]
    for saved in archives[:: max(1, len(archives) // 12)]:
        path = mcore / "release" / saved.file
        with _flipped(path, saved.offset + saved.length // 2):
            with pytest.raises(RequestError, match=f"{path} is damaged: .* differs from the checksum"):
                convert_mcore_to_hf(mcore, tmp_path / "back", progress=False)
            assert not (tmp_path / "back").exists()
    convert_mcore_to_hf(mcore, tmp_path / "back", progress=False)
    assert_same_bits(tmp_path / "back", tmp_path / "hf")


def test_so_is_one_in_a_part_that_another_host_converts(tmp_path):
    """A payload's checksum covers rows that go to several files: whoever uses some of it looks at all of it."""
    mcore = _converted(tmp_path, "qwen2", tensor_parallel_size=1)
    saved = next(s for s in read_archives(mcore / "release") if s.key.endswith("linear_qkv.weight"))
    damage = pytest.raises(RequestError, match=r"linear_qkv.weight .* differs from the checksum")
    with _flipped(mcore / "release" / saved.file, saved.offset + saved.length - 700), damage:
        convert_mcore_to_hf(mcore, tmp_path / "back", max_file_bytes=2000, progress=False)


def _converted(tmp_path: Path, family: str, **options) -> Path:
    write_model(tmp_path / "hf", family)
    convert_hf_to_mcore(tmp_path / "hf", tmp_path / "mcore", progress=False, **options)
    return tmp_path / "mcore"


class _flipped:
    """One bit of a file, for a while."""

    def __init__(self, path: Path, offset: int) -> None:
        self._path, self._offset = path, offset

    def __enter__(self) -> None:
        self._flip()

    def __exit__(self, *_: object) -> None:
        self._flip()

    def _flip(self) -> None:
        with self._path.open("r+b") as file:
            file.seek(self._offset)
            byte = file.read(1)[0]
            file.seek(self._offset)
            file.write(bytes([byte ^ 1]))
