"""Names of the files of a checkpoint, and reading them with errors of one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...core.errors import CorruptError

ADAPTER_FILE = "adapter_config.json"
IDF_FILE = "idf.json"
TABLE_FILE = "query_weights.safetensors"

_LFS = b"version https://git-lfs"


def read_json(path: Path) -> Any:
    """Read a JSON file of a checkpoint.

    Raises:
        CorruptError: not there, or no JSON.
    """
    check_fetched(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CorruptError(
            f"{path.parent}: no {path.name} in it, so it is not a model directory"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{path}: not readable as JSON: {first_line(error)}") from None


def check_fetched(path: Path) -> None:
    """Raise CorruptError where a file is what Git LFS leaves in place of the real one."""
    if path.is_file():
        with open(path, "rb") as file:
            if file.read(len(_LFS)) == _LFS:
                raise CorruptError(
                    f"{path}: is a Git LFS pointer, not the file itself; run git lfs pull in its "
                    "repository, or fetch the checkpoint again"
                )


def first_line(error: BaseException) -> str:
    """Return what another library's error says, on one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
