"""Odd checkpoints and files from public reports, kept outside the repository."""

import os
import shutil
from pathlib import Path

import pytest

CASES = Path(
    os.environ.get("CSPLADE_CASES") or Path(__file__).parents[3] / "shared" / "cases"
).resolve()


@pytest.fixture
def encoder_cases(tmp_path, monkeypatch):
    """Copies cases of an encoder; the working directory is theirs, as some name it in paths."""

    def copy(*names):
        for name in names:
            source = CASES / "encoder" / name
            if not source.is_dir():
                pytest.skip(f"{source} is not there; CSPLADE_CASES names the folder of cases")
            shutil.copytree(source, tmp_path / name, dirs_exist_ok=True)
        for path in tmp_path.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        monkeypatch.chdir(tmp_path)
        return tmp_path / names[0]

    return copy
