"""JSON files as rows of bytes, one after the other, so that a file may be larger than memory.

Rows are cut out without being parsed. A broken one costs itself only, and the processes that tokenize parse them.
(Streaming parsers such as ijson stop at the first invalid byte or number and turn half characters into `?`.)
"""

import json
import re
from collections.abc import Iterator
from io import BufferedReader
from typing import NamedTuple

WINDOW_BYTES = 1 << 20
"""Read at a time."""

_BOM = b"\xef\xbb\xbf"
_EXCERPT_BYTES = 200


class CutRow(NamedTuple):
    """A row as it stands in the file."""

    position: int
    """Line of the file, or item of the list, counted from 1."""
    content: bytes
    """JSON; the beginning of it where the row is too large."""
    too_large: bool = False


class BrokenFile(ValueError):
    """No rows can be told apart in this file."""


def lines(stream: BufferedReader, limit: int) -> Iterator[CutRow]:
    """The lines that hold something; of those with more than `limit` bytes, only the beginning is kept."""
    position = 0
    while line := stream.readline(limit + 1):
        position += 1
        if len(line) > limit and not line.endswith(b"\n"):
            while (rest := stream.readline(WINDOW_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield CutRow(position, line[:_EXCERPT_BYTES], too_large=True)
            continue
        content = line.removeprefix(_BOM) if position == 1 else line
        if not content.isspace() and content:
            yield CutRow(position, content)


def list_or_lines(stream: BufferedReader, limit: int) -> Iterator[CutRow]:
    """The items of a file that is one JSON list, or the lines of one that holds an object a line."""
    start = stream.peek(WINDOW_BYTES).removeprefix(_BOM).lstrip()[:1]
    if start == b"[":
        yield from list_items(stream, limit)
        return
    rows = lines(stream, limit)
    first = next(rows, None)
    if first is None:
        return
    if start != b"{" or not _is_json(first.content):
        raise BrokenFile("expected a list of objects, or one object a line")
    yield first
    yield from rows


def list_items(stream: BufferedReader, limit: int) -> Iterator[CutRow]:
    """The items of a JSON list. `BrokenFile` where the file ends before the list, or goes on after it."""
    cutter = _ListCutter(limit)
    while window := stream.read(WINDOW_BYTES):
        yield from cutter.feed(window)
    cutter.finish()


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


_REST_OF_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_STRUCTURE = re.compile(rb'"(?:[^"\\]*+(?:\\.[^"\\]*+)*+")?+|[{}\[\]]', re.DOTALL)
_STRUCTURE_OR_COMMA = re.compile(_STRUCTURE.pattern + rb"|,", re.DOTALL)


class _ListCutter:
    """Cuts a JSON list into its items while it is handed over in pieces; knows only strings, brackets and commas."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._depth = 0
        self._in_string = False
        self._carried = b""
        """A backslash at the end of the last piece, which belongs to what follows it."""
        self._item = bytearray()
        self._item_size = 0
        self._position = 0
        self._ended = False

    def feed(self, piece: bytes) -> Iterator[CutRow]:
        """The items that this piece completes."""
        data = self._carried + piece
        self._carried = b""
        at = kept = 0
        while at < len(data):
            if self._in_string:
                at = self._end_of_string(data, at)
                continue
            match = (_STRUCTURE_OR_COMMA if self._depth == 1 else _STRUCTURE).search(data, at)
            if match is None:
                self._require_nothing_outside(data[at:])
                break
            self._require_nothing_outside(data[at : match.end() if self._ended else match.start()])
            at, token = match.end(), match.group()
            if token == b'"':
                self._in_string = True
            elif token == b"{" or token == b"[":
                self._depth += 1
                kept = at if self._depth == 1 else kept
            elif token == b"}" or token == b"]" or token == b",":
                self._depth -= token != b","
                if self._depth == (token == b","):
                    self._keep(data[kept : match.start()])
                    kept = at
                    self._ended = self._depth == 0
                    yield from self._complete()
        if self._depth:
            self._keep(data[kept : len(data) - len(self._carried)])

    def finish(self) -> None:
        """`BrokenFile` unless the list has ended."""
        if not self._ended:
            raise BrokenFile(f"it ends inside the list, in item {self._position + 1}; the file is cut off")

    def _end_of_string(self, data: bytes, at: int) -> int:
        match = _REST_OF_STRING.match(data, at)
        end = match.end() if match else at
        if data[end : end + 1] == b'"':
            self._in_string = False
            return end + 1
        self._carried = data[end:]  # nothing, or a backslash
        return len(data)

    def _require_nothing_outside(self, between: bytes) -> None:
        if (self._ended or not self._depth) and between.removeprefix(_BOM).strip():
            raise BrokenFile("text stands outside the list")

    def _keep(self, content: bytes) -> None:
        self._item_size += len(content)
        self._item += content[: max(0, self._limit + 1 - len(self._item))]

    def _complete(self) -> Iterator[CutRow]:
        content, size = bytes(self._item).strip(), self._item_size
        self._item.clear()
        self._item_size = 0
        if not content and self._ended and self._position == 0:
            return  # an empty list
        self._position += 1
        if size > self._limit:
            yield CutRow(self._position, content[:_EXCERPT_BYTES], too_large=True)
        else:
            yield CutRow(self._position, content)
