"""Read the lines of text files and of folders of them: UTF-8, plain, ``.gz`` or ``.zst``.

Every reader of the project takes its lines from here, so that all of them accept the same files and
every error names the file and the line.
"""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from .errors import InputError, UnavailableError

# The longest line that is read, in bytes after decompression. A parsed line takes up to about
# twenty times its length in memory; the longest texts in use have 6 MB.
MAX_LINE_BYTES = 16 * 2**20

OnBad = Callable[[InputError], None]
"""Called with the error of a bad line, which is then skipped; without it the error is raised."""

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_COMPRESSED = {".gz": _GZIP, ".zst": _ZSTD}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BYTE_ORDER_MARK = "\ufeff"


class Line(NamedTuple):
    """One line of a file, without its end; ``number`` counts from 1."""

    path: Path
    number: int
    text: str

    @property
    def place(self) -> str:
        """``FILE:NUMBER``, as errors name it."""
        return f"{self.path}:{self.number}"

    def error(self, problem: object) -> InputError:
        """Return an error that names file and line."""
        return InputError(f"{self.place}: {problem}")


@contextmanager
def located(line: Line) -> Iterator[None]:
    """Add file and line to an error of the block."""
    try:
        yield
    except InputError as error:
        raise line.error(error) from None


def read_lines(path: Path | str, *, on_bad: OnBad | None = None) -> Iterator[Line]:
    """Yield the lines of a file, or of all files of a folder in order of their names.

    Blank lines are skipped. A byte order mark at the start of a line, where files were joined, is
    skipped too. Lines end with LF or CRLF.

    Args:
        path: a file, plain or compressed with gzip or Zstandard, or a folder of such files.
        on_bad: see :data:`OnBad`.

    Raises:
        InputError: ``path`` does not exist, a folder holds a folder or no file, a file is not UTF-8
            text or is incomplete, a line has more than ``MAX_LINE_BYTES`` bytes.
        UnavailableError: a ``.zst`` file, and backports.zstd is not installed.
    """
    for file in files_of(Path(path)):
        yield from _lines_of(file, on_bad)


def read_jsonl(
    path: Path | str, *, on_bad: OnBad | None = None
) -> Iterator[tuple[Line, dict[str, Any]]]:
    """Yield each line of :func:`read_lines` with its JSON object.

    Raises:
        InputError: as :func:`read_lines`; a line is not a JSON object, has a key twice, ``NaN`` or
            ``Infinity``, or half of a Unicode surrogate pair.
    """
    for line in read_lines(path, on_bad=on_bad):
        try:
            values = parse_object(line)
        except InputError as error:
            if on_bad is None:
                raise
            on_bad(error)
        else:
            yield line, values


def files_of(path: Path) -> list[Path]:
    """Return the file itself, or the files of a folder in order of their names.

    Files whose names start with ``.`` or ``_`` are not part of a folder.

    Raises:
        InputError: ``path`` does not exist, or the folder holds a folder or no file.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        problem = "is neither a file nor a folder" if path.exists() else "no such file"
        raise InputError(f"{path}: {problem}")
    files = sorted(one for one in path.iterdir() if one.name[0] not in "._")
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: is not a file; a folder of data holds files alone")
    if not files:
        raise InputError(f"{path}: no files in this folder")
    return files


def is_tab_separated(path: Path) -> bool:
    """Return whether a file's name says that its lines have columns with tabs between."""
    return plain_suffix(path) in (".tsv", ".txt")


def plain_suffix(path: Path) -> str:
    """Return the suffix of a file name without ``.gz`` or ``.zst``, in lower case."""
    return Path(path.stem if path.suffix in _COMPRESSED else path.name).suffix.lower()


def _lines_of(path: Path, on_bad: OnBad | None) -> Iterator[Line]:
    with open_decompressed(path) as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            try:
                text = _decoded(path, number, raw)
            except InputError as error:
                if on_bad is None:
                    raise
                on_bad(error)
                while not raw.endswith(b"\n") and (raw := file.readline(MAX_LINE_BYTES)):
                    pass  # the rest of a line that is too long
            else:
                if text and not text.isspace():
                    yield Line(path, number, text)


@contextmanager
def open_decompressed(path: Path) -> Iterator[BufferedIOBase]:
    """Open a file for reading bytes, decompressed as its first bytes say.

    Raises:
        InputError: the name says another compression than the content, the content is UTF-16 text;
            within the block, the file is incomplete or damaged.
        UnavailableError: a ``.zst`` file, and backports.zstd is not installed.
    """
    with open(path, "rb") as plain:
        start = plain.peek(4)[:4]
        named = _COMPRESSED.get(path.suffix)
        if named and start and not start.startswith(named):
            raise InputError(f"{path}: the name ends in {path.suffix}, the content is not of it")
        if start.startswith(_UTF16):
            raise InputError(
                f"{path}: is UTF-16, must be UTF-8; convert it with: iconv -f UTF-16 -t UTF-8"
            )
        if start.startswith(_GZIP):
            with gzip.open(plain) as file:
                try:
                    yield file
                except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                    _raise_incomplete(path, error)
        elif start.startswith(_ZSTD):
            zstd = _import_zstd(path)
            with zstd.open(plain, "rb") as file:
                try:
                    yield file
                except (EOFError, zstd.ZstdError) as error:
                    _raise_incomplete(path, error)
        else:
            yield plain


def _import_zstd(path: Path) -> Any:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise UnavailableError(
            f"{path}: a .zst file needs backports.zstd; pip install 'csplade[server]'"
        ) from None
    return zstd


def _raise_incomplete(path: Path, error: Exception) -> NoReturn:
    raise InputError(f"{path}: is incomplete or damaged: {error}") from None


def _decoded(path: Path, number: int, raw: bytes) -> str:
    if len(raw) > MAX_LINE_BYTES:
        raise InputError(
            f"{path}:{number}: the line has more than {MAX_LINE_BYTES:,} bytes, the most that is "
            "read; shorten or split it"
        )
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}:{number}: byte {raw[error.start]:#04x} at column {error.start + 1} is not "
            "UTF-8; convert the file, for example with: iconv -f LATIN1 -t UTF-8"
        ) from None
    if "\0" in text:
        raise InputError(f"{path}:{number}: has a NUL byte, must be UTF-8 text")
    return text.removeprefix(_BYTE_ORDER_MARK).rstrip("\r\n")


def parse_object(line: Line) -> dict[str, Any]:
    """Return the JSON object that is the text of a line.

    Raises:
        InputError: see :func:`read_jsonl`.
    """
    try:
        values = json.loads(line.text, object_pairs_hook=each_once, parse_constant=_reject_constant)
        if not isinstance(values, dict):
            raise ValueError(f"must be a JSON object, is {type(values).__name__}")
        if "\\ud" in line.text or "\\uD" in line.text:
            json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise line.error(
            f"has {half!r}, half of a Unicode surrogate pair, which is not text; remove it"
        ) from None
    except RecursionError:
        raise line.error("is nested too deeply") from None
    except ValueError as error:
        start = "; is it a JSON array? write one object a line" if line.text[0] == "[" else ""
        raise line.error(f"broken JSON line: {error}{start}") from None
    return values


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object from its pairs.

    Raises:
        ValueError: a key is there twice.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"key {next(name for name in names if names.count(name) > 1)!r} is there twice"
        )
    return values


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON; write a number or null")
