"""Imports run down the layers, pins cover what is used, links in documents lead somewhere."""

import ast
import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent

# Imports run down only: a package may import packages of a lower layer, and itself.
LAYERS = {
    "core": 0,
    "v1": 0,
    "kernels": 1,
    "model": 2,
    "index": 2,
    "client": 2,
    "ingest": 3,
    "engine": 4,
    "service": 5,
    "evaluation": 6,
    "bench": 6,
    "loadtest": 6,
    "cli": 7,
}
# Only these may know a transport or how metrics are exported.
TRANSPORTS = {"grpc", "grpc_health", "grpc_reflection", "prometheus_client", "ray"}
KNOW_TRANSPORTS = {"client", "service", "loadtest"}
PACKAGES = [name for name in LAYERS if (ROOT / name / "__init__.py").is_file()]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_down_the_layers(package):
    wrong = []
    for path, target in _own_imports(package):
        top = target.split(".")[0]
        if top != package and LAYERS.get(top, -1) >= LAYERS[package]:
            wrong.append(f"{path.relative_to(ROOT)} imports {target}")
    assert not wrong


@pytest.mark.parametrize("package", [name for name in PACKAGES if name not in KNOW_TRANSPORTS])
def test_only_service_and_client_know_the_transport(package):
    wrong = [
        f"{path.relative_to(ROOT)} imports {target}"
        for path, target in _foreign_imports(package)
        if target.split(".")[0] in TRANSPORTS
    ]
    assert not wrong


def test_every_direct_requirement_is_pinned_within_its_bounds():
    pins = _pins()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    for requirement in (Requirement(line) for lines in lists for line in lines):
        name = canonicalize_name(requirement.name)
        if name == "csplade":
            continue
        assert name in pins, f"constraints.txt has no pin for {name}"
        assert requirement.specifier.contains(pins[name]), (
            f"{requirement} excludes the pin {pins[name]}"
        )


def test_everything_that_development_pulls_in_is_pinned():
    missing = sorted(_closure("csplade", {"dev"}) - _pins().keys() - {"csplade"})
    assert not missing, f"constraints.txt has no pin for {missing}"


def test_torch_and_triton_come_as_a_pair():
    pins = _pins()
    assert (pins["torch"], pins["triton"]) == ("2.13.0", "3.7.1")


def test_licence_is_the_plain_apache_text():
    text = (ROOT / "LICENSE").read_bytes()
    assert (
        hashlib.sha256(text).hexdigest()
        == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    )


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_alone_lists_every_target():
    done = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    listed = re.findall(r"^make ([\w-]+) +\S", done.stdout, re.MULTILINE)
    assert sorted(listed) == [
        "bench", "clean", "coverage", "demo", "docs", "fmt", "gpu-check", "help",
        "image", "lint", "proto", "serve", "study", "test", "types", "venv",
    ]  # fmt: skip


def test_packages_are_all_named_to_pip():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        path.parent.relative_to(ROOT)
        for name in PACKAGES
        for path in ROOT.glob(f"{name}/**/__init__.py")
    }
    expected = {"csplade", "csplade.v1"} | {
        f"csplade.{'.'.join(folder.parts)}" for folder in folders
    }
    assert set(tool["packages"]) == expected


@pytest.mark.parametrize(
    "document", sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("*.md"))
)
def test_links_lead_somewhere(document):
    _check_links(ROOT / document)


@pytest.mark.parametrize(
    "document", sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md"))
)
def test_links_of_the_pages_lead_somewhere(document):
    _check_links(ROOT / document)


def _check_links(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), (
                f"{path.name} links to {target}, which is not there"
            )


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def _closure(name: str, extras: set[str]) -> set[str]:
    """Names of all distributions that one brings in with some extras, itself included."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(canonicalize_name(name), frozenset(extras))]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        for line in importlib.metadata.requires(current[0]) or []:
            requirement = Requirement(line)
            if requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in current[1] | {""}
            ):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return {name for name, _ in seen}


def _own_imports(package: str) -> Iterator[tuple[Path, str]]:
    """(file, module below csplade) for every import from the project itself."""
    for path, node in _import_nodes(package):
        if isinstance(node, ast.Import):
            yield from (
                (path, alias.name.removeprefix("csplade."))
                for alias in node.names
                if alias.name.startswith("csplade.")
            )
        elif node.level:
            here = path.relative_to(ROOT).with_suffix("").parts
            base = [*here[: len(here) - node.level], *(node.module or "").split(".")]
            module = ".".join(part for part in base if part)
            yield from ((path, module or alias.name) for alias in node.names)
        elif (node.module or "").split(".")[0] == "csplade":
            yield path, (node.module or "").removeprefix("csplade").lstrip(".")


def _foreign_imports(package: str) -> Iterator[tuple[Path, str]]:
    for path, node in _import_nodes(package):
        if isinstance(node, ast.Import):
            yield from ((path, alias.name) for alias in node.names)
        elif not node.level:
            yield path, node.module or ""


def _import_nodes(package: str) -> Iterator[tuple[Path, ast.Import | ast.ImportFrom]]:
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield path, node
