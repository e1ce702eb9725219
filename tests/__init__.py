"""Tests mirror the tree; helpers that several modules share are imported by relative imports.

The repository root is a package, so pytest names these modules after the folder of the checkout:
`main.tests.index` in a checkout named `main`, `tests.index` where the name is not an identifier.
"""

import sys
from pathlib import Path

# On the way here pytest imports the root under the folder's name. It must not stay importable by
# it: in a folder named `scipy` it would replace the library.
_folder = __name__.rpartition(".")[0]
if _folder not in ("", "csplade"):
    _root = getattr(sys.modules.get(_folder), "__file__", None)
    if _root and Path(_root).parent == Path(__file__).parent.parent:
        del sys.modules[_folder]
