"""Write the API reference, one HTML page for each module: ``python docs/api.py OUTPUT``.

A module that cannot be imported is an error.
"""

import pkgutil
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pdoc

import csplade


def modules() -> list[str]:
    """Return the names of all modules of the package, tests left out."""
    found = pkgutil.walk_packages(csplade.__path__, "csplade.", onerror=_fail)
    below = [one.name for one in found if not f"{one.name}.".startswith("csplade.tests.")]
    generated = (
        f"csplade.v1.{name}_{kind}"
        for name in ("retrieval", "documents")
        for kind in ("pb2", "pb2_grpc")
    )
    return ["csplade", *below, *generated]


def load_public_names(module: str) -> None:
    """Put the names that a package loads on first use into its namespace, where pdoc looks."""
    names = vars(import_module(module))
    for name in names.get("__all__", ()):
        if name not in names:
            names[name] = names["__getattr__"](name)


def _fail(name: str) -> None:
    raise ImportError(f"{name} cannot be imported")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="pdoc")  # annotations that only a type checker sees
    for name in modules():
        load_public_names(name)
    pdoc.render.configure(docformat="google", footer_text=f"csplade {csplade.__version__}")
    pdoc.pdoc(*modules(), output_directory=Path(sys.argv[1]))
