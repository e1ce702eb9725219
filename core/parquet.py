"""Read Parquet files as JSON lines are read: each row is an object, its columns the keys.

Needs pyarrow, which ``csplade[parquet]`` installs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import InputError, UnavailableError
from .lines import Line, OnBad, each_once, parse_object

SUFFIX = ".parquet"
ROWS = 1024  # decoded together
BUFFER_BYTES = 2**20  # read together, of each column

ALLOWED = (
    "strings, whole numbers, float32, float64, booleans, lists and structs of these, and maps from "
    "strings to these"
)


def read_parquet(
    path: Path, *, on_bad: OnBad | None = None
) -> Iterator[tuple[Line, dict[str, Any]]]:
    """Yield each row with its place, which counts from 1, and its object.

    A value of null counts as absent. Maps become objects. A string ``metadata`` holds one as JSON.

    Args:
        path: the file.
        on_bad: see :data:`.lines.OnBad`; it gets the errors of rows.

    Raises:
        InputError: not a Parquet file, an incomplete or damaged one; a column of another type than
            JSON has; a map with a key twice; ``metadata`` that is not a JSON object.
        UnavailableError: pyarrow is not installed.
    """
    pa, parquet = import_pyarrow(path)
    path.open("rb").close()  # a file that may not be read is not a damaged one
    number = 0
    try:
        with parquet.ParquetFile(
            path, buffer_size=BUFFER_BYTES, page_checksum_verification=True
        ) as file:
            schema = file.schema_arrow
            if len(set(schema.names)) < len(schema.names):
                raise InputError(f"{path}: has two columns of one name; drop one")
            for field in schema:
                is_map = pa.types.is_map(field.type) and pa.types.is_string(field.type.key_type)
                if not _is_readable(pa, field.type.item_type if is_map else field.type):
                    raise InputError(
                        f"{path}: column {field.name!r:.60} is {field.type!s:.60}; allowed are "
                        f"{ALLOWED}; convert or drop it"
                    )
            maps = [field.name for field in schema if pa.types.is_map(field.type)]
            for batch in file.iter_batches(ROWS):
                for row in batch.to_pylist():
                    number += 1
                    values = {name: value for name, value in row.items() if value is not None}
                    line = Line(path, number, repr(values))
                    try:
                        _make_objects(line, values, maps)
                    except InputError as error:
                        if on_bad is None:
                            raise
                        on_bad(error)
                        continue
                    yield line, values
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        where = f" after row {number}" if number else ""
        raise InputError(
            f"{path}: is not Parquet, or is damaged{where}: {' '.join(str(error).split()):.200}"
        ) from None


def import_pyarrow(path: Path) -> tuple[Any, Any]:
    """Return the modules ``pyarrow`` and ``pyarrow.parquet``.

    Args:
        path: the file that they are needed for.

    Raises:
        UnavailableError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UnavailableError(
            f"{path}: Parquet needs pyarrow; pip install 'csplade[parquet]'"
        ) from None
    return pyarrow, pyarrow.parquet


def _is_readable(pa: Any, kind: Any) -> bool:
    """Whether values of a type are values of JSON."""
    types = pa.types
    nested = ("list", "large_list", "fixed_size_list", "dictionary")
    if any(getattr(types, f"is_{name}")(kind) for name in nested):
        return _is_readable(pa, kind.value_type)
    if types.is_struct(kind):
        return all(_is_readable(pa, kind.field(i).type) for i in range(kind.num_fields))
    plain = ("null", "boolean", "integer", "float32", "float64", "string", "large_string")
    return any(getattr(types, f"is_{name}")(kind) for name in plain)


def _make_objects(line: Line, values: dict[str, Any], maps: list[str]) -> None:
    """Replace maps, which are lists of pairs, and ``metadata``, which is a string."""
    for name in maps:
        if name in values:
            try:
                values[name] = each_once(values[name])
            except ValueError as error:
                raise line.error(f"{name}: {error}") from None
    if isinstance(metadata := values.get("metadata"), str):
        try:
            values["metadata"] = parse_object(line._replace(text=metadata))
        except InputError:
            raise line.error(
                f"metadata: {metadata!r:.60} is not a JSON object; write one, or name the column "
                "otherwise"
            ) from None
