"""Test folders are packages whatever the checkout's folder is called."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

TEST = """
import colorsys

from .helpers import one


def test_helpers_and_libraries_are_found():
    assert one() == 1
    assert colorsys.rgb_to_hsv(0, 0, 0) == (0, 0, 0)
"""


@pytest.mark.parametrize("folder", ["main", "x.y", "tmp 1", "csplade", "colorsys"])
def test_a_checkout_may_have_any_name(tmp_path, folder):
    root = tmp_path / folder
    (root / "tests" / "part").mkdir(parents=True)
    for name in ("__init__.py", "pyproject.toml", "tests/__init__.py"):
        shutil.copy2(ROOT / name, root / name)
    (root / "tests" / "part" / "__init__.py").touch()
    (root / "tests" / "part" / "helpers.py").write_text("def one():\n    return 1\n")
    (root / "tests" / "part" / "test_part.py").write_text(TEST)
    done = subprocess.run(
        [sys.executable, "-m", "pytest"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
