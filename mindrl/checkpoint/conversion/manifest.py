"""mindrl_conversion.json: what a result was made of, and the checksums of everything in it, made while copying.

{"format": 1, "mindrl": version, "source": path, "options": {...}, "sources": {file: [bytes, time]}, "plan": SHA-256,
 "files": {name: {"size": bytes,
                  "literals": [[offset, bytes, crc32], ...],
                  "records": {name of the tensor or part: [offset of its values, bytes, crc32]}}},
 "small_files": {name: [bytes, crc32]}}
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mindrl.checkpoint.byte_plan import OutputFile
from mindrl.files import read_json_object

MANIFEST_NAME = "mindrl_conversion.json"
FORMAT = 1

FileNote = Mapping[str, Any]
"""What the manifest says of one file."""


def file_note(file: OutputFile, crcs: Mapping[str, int]) -> FileNote:
    """`crcs`: CRC-32 of each record's payload, by the record's name."""
    return {
        "size": file.size,
        "literals": [[offset, len(data), zlib.crc32(data)] for offset, data in file.literals],
        "records": {
            record.name: [record.offset, record.num_bytes, crcs[record.name]] for record in file.records
        },
    }


def is_note_of(note: FileNote, file: OutputFile) -> bool:
    """Whether a note is of this file as planned."""
    planned = {record.name: (record.offset, record.num_bytes) for record in file.records}
    noted = {name: tuple(place[:2]) for name, place in note["records"].items()}
    return note["size"] == file.size and noted == planned


def is_result_of(directory: Path, identity: Mapping[str, Any]) -> bool:
    """Whether `directory` holds the result of the conversion with this identity."""
    path = directory / MANIFEST_NAME
    if not path.is_file():
        return False
    found = read_json_object(path)
    return all(found.get(key) == value for key, value in identity.items())


def write_manifest(
    directory: Path, about: Mapping[str, Any], files: Mapping[str, FileNote], small_files: Iterable[str]
) -> None:
    """`about`: of what, and by what options it was made; `small_files`: names of what else in `directory` nobody is to change."""
    content = {
        "format": FORMAT,
        **about,
        "files": files,
        "small_files": {name: _size_and_crc(directory / name) for name in small_files},
    }
    (directory / MANIFEST_NAME).write_text(json.dumps(content) + "\n", encoding="utf-8")


def _size_and_crc(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    return len(data), zlib.crc32(data)
