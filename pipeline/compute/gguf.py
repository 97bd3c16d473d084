"""What a .gguf file says of itself: its keys, and the names and shapes of its tensors, never their content.

The package gguf reads all of it into arrays, vocabulary and merges included, which takes seconds. Here lists are walked
over, and only what is asked for is kept.
"""

import functools
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.errors import UserError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9


def metadata(path: Path) -> Mapping[str, Any]:
    """Numbers and texts by key; lists are left out. Raises UserError where the file is no .gguf of version 2 or 3."""
    return _head(path)[0]


def shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    """The shape of every tensor by its name, as torch has it: rows first. Raises UserError as `metadata` does."""
    return _head(path)[1]


@functools.cache
def _head(path: Path) -> tuple[Mapping[str, Any], Mapping[str, tuple[int, ...]]]:
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found, tensors = _Reader(content).read()
            return MappingProxyType(found), MappingProxyType(tensors)  # they are remembered
    except (OSError, ValueError, RecursionError, struct.error) as error:
        problem = f"{path} is no .gguf file that can be read ({error})"
        raise UserError(problem, "fetch it again, or give a directory as save_pretrained writes it") from None


class _Reader:
    def __init__(self, content: mmap.mmap):
        self.content, self.at = content, 0

    def read(self) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
        if self.content[:4] != b"GGUF":
            raise ValueError("it does not begin as one")
        self.at = 4
        if (version := self._scalar("I")) not in (2, 3):
            raise ValueError(f"its version is {version}, not 2 or 3")
        tensors, keys = self._scalar("Q"), self._scalar("Q")
        found = {}
        for _ in range(keys):
            key = self._text()
            kind = self._scalar("I")
            value = self._value(kind)
            if kind != _LIST:
                found[key] = value
        return found, dict(self._tensor() for _ in range(tensors))

    def _tensor(self) -> tuple[str, tuple[int, ...]]:
        name, dimensions = self._text(), self._scalar("I")
        shape = tuple(self._scalar("Q") for _ in range(dimensions))[::-1]
        self._scalar("I"), self._scalar("Q")  # its kind, and where it begins
        return name, shape

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind == _LIST:
            return self._skip(self._scalar("I"), self._scalar("Q"))
        if kind not in _SCALARS:
            raise ValueError(f"it holds a value of the unknown kind {kind}")
        return self._scalar(_SCALARS[kind])

    def _skip(self, kind: int, count: int) -> None:
        if kind in _SCALARS:
            self.at += count * struct.calcsize(_SCALARS[kind])
            return
        length = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if kind == _TEXT:
                self.at += 8 + length(self.content, self.at)[0]
            else:
                self._value(kind)

    def _scalar(self, form: str) -> Any:
        (value,) = struct.unpack_from(f"<{form}", self.content, self.at)
        self.at += struct.calcsize(f"<{form}")
        return value

    def _text(self) -> str:
        length = self._scalar("Q")
        start, self.at = self.at, self.at + length
        if self.at > len(self.content):
            raise ValueError("it ends within a text")
        return self.content[start : self.at].decode("utf-8", "replace")
