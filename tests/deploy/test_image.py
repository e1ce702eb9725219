"""Dockerfile and compose file, read without an engine; test_container.py builds and runs them."""

import itertools
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from csplade.service import settings as config

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "deploy" / "image").glob("requirements-*.txt"))
IGNORED = [
    line
    for line in (ROOT / ".dockerignore").read_text().splitlines()
    if line and not line.startswith("#")
]


@dataclass
class Stage:
    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)  # instruction, what stands after it

    def all(self, instruction: str) -> list[str]:
        return [rest for step, rest in self.steps if step == instruction]


def read_dockerfile() -> tuple[dict[str, str], list[Stage]]:
    """Global arguments with their defaults, and the stages in order."""
    lines = [
        line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")
    ]
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        instruction, rest = line.split(maxsplit=1)
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(base, name))
        elif stages:
            stages[-1].steps.append((instruction, rest))
        else:
            assert instruction == "ARG"
            arguments.update([rest.split("=", 1)])
    return arguments, stages


ARGUMENTS, STAGES = read_dockerfile()
NAMED = {stage.name: stage for stage in STAGES}
FINAL = STAGES[-1]


def ignored(path: str) -> bool:
    """Whether .dockerignore leaves a path out, or a folder above it."""
    parts = [*PurePosixPath(path).parents, PurePosixPath(path)]
    patterns = [pattern.removeprefix("**/") for pattern in IGNORED]
    return any(
        fnmatch(str(part), pattern) or (both and fnmatch(part.name, pattern))
        for part in parts
        if str(part) != "."
        for pattern, both in zip(patterns, [one.startswith("**/") for one in IGNORED], strict=True)
    )


def context() -> Iterator[str]:
    """Paths of the files that an engine would be given."""
    for folder, folders, files in os.walk(ROOT):
        here = Path(folder).relative_to(ROOT)
        folders[:] = [name for name in folders if not ignored(str(here / name))]
        yield from (str(here / name) for name in files if not ignored(str(here / name)))


def test_the_base_is_pinned_and_one_for_all_stages():
    assert ARGUMENTS == {"BASE": "debian:bookworm-slim"}
    assert [stage.base for stage in STAGES] == ["${BASE}", "base", "base"]
    variables = re.findall(r"^BASE\.(\S+) := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert dict(variables).keys() == {path.stem[13:] for path in LOCKS}
    for _, image in variables:
        name, _, tag = image.partition(":")
        assert re.search(r"\d|bookworm", tag), f"{name} has no version"


def test_every_source_of_copy_exists():
    for stage in STAGES:
        for rest in stage.all("COPY"):
            words = rest.split()
            options = [word for word in words if word.startswith("--")]
            *sources, _ = [word for word in words if not word.startswith("--")]
            origin = [
                word.removeprefix("--from=") for word in options if word.startswith("--from=")
            ]
            for source in sources:
                if origin:
                    made = " ".join(NAMED[origin[0]].all("RUN"))
                    assert source in made, f"{origin[0]} makes no {source}"
                elif not source.endswith(".whl"):  # there only if no index offers it
                    found = list(ROOT.glob(source)) if "*" in source else [ROOT / source]
                    assert found
                    for path in found:
                        assert path.exists()
                        assert not ignored(path.relative_to(ROOT).as_posix())


def test_what_installation_needs_is_not_ignored_and_secrets_are():
    kept = set(context())
    for needed in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "py.typed",
        "deploy/image/triton_driver.py",
        "deploy/image/entrypoint",
    ):
        assert needed in kept
    packages = (
        "kernels",
        "model",
        "index",
        "service",
        "evaluation",
        "loadtest",
        "cli",
        "proto",
        "examples",
    )
    sources = {
        str(path.relative_to(ROOT)) for name in packages for path in (ROOT / name).rglob("*.py")
    }
    assert sources <= kept
    for left_out in (
        ".git/config",
        ".venv/bin/python",
        ".env",
        "tests/conftest.py",
        "service/__pycache__/a.pyc",
    ):
        assert ignored(left_out), left_out


def test_the_final_stage_runs_as_nobody_special_and_builds_nothing():
    (user,) = FINAL.all("USER")
    made = re.search(r"useradd --uid (\d+) (?:--\S+ )*(\w+) ", " ".join(FINAL.all("RUN")) + " ")
    assert made is not None
    assert made[2] == user
    assert int(made[1]) >= 1000
    after = [step for step, _ in FINAL.steps[FINAL.steps.index(("USER", user)) :]]
    assert not {"RUN", "COPY"} & set(after)
    for stage in (NAMED["base"], FINAL):
        assert not re.search(r"gcc|g\+\+|make|cmake|-dev\b|pip install", " ".join(stage.all("RUN")))
    for volume in FINAL.all("VOLUME"):
        assert f"install -d -m 1777 {volume} " in " ".join(FINAL.all("RUN"))


def test_everything_installed_is_pinned_by_hash():
    installs = [step for stage in STAGES for step in stage.all("RUN") if "pip install" in step]
    assert installs
    assert all("--require-hashes" in step or "--no-index " in step for step in installs)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_locks_hold_the_pins_of_the_constraints(lock):
    """Run deploy/image/lock.py after a change of pyproject.toml or constraints.txt."""
    head, *lines = lock.read_text().splitlines()
    locked = dict(
        re.fullmatch(r"(\S+)==(\S+) --hash=sha256:\w{64}", line).groups() for line in lines
    )
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pairs}
    for name, version in locked.items():
        if name.startswith(("nvidia-", "cuda-")):  # what torch asks for, on no other machine
            continue
        assert version.removesuffix("+cpu") == pins[name], name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"csplade\[(.*?)\]", head)
    lists = [project["optional-dependencies"][extra] for extra in extras.split(",")]
    needed = [Requirement(line) for line in (*project["dependencies"], *itertools.chain(*lists))]
    names = {canonicalize_name(one.name) for one in needed} - {"csplade"}
    assert names <= locked.keys()


def test_the_environment_of_the_image_is_a_valid_configuration(monkeypatch):
    (environment,) = FINAL.all("ENV")
    values = dict(pair.split("=", 1) for pair in environment.split())
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = config.load()
    assert str(settings.index) == "/data/index"
    assert (settings.server.host, settings.metrics.host) == ("0.0.0.0", "0.0.0.0")
    assert sorted(map(int, FINAL.all("EXPOSE")[0].split())) == [
        settings.http.port,
        settings.metrics.port,
        settings.server.port,
    ]
    assert str(settings.server.health_socket).startswith("/dev/shm/")  # writable on any root


def test_compose_puts_them_together():
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    services = compose["services"]
    assert services.keys() == {"model", "csplade", "prometheus", "grafana"}
    assert services["model"]["image"] == services["csplade"]["image"]
    folder = ROOT / "deploy"
    for service in services.values():
        for volume in service["volumes"]:
            if isinstance(volume, dict):
                continue
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (folder / source).exists()
            else:
                assert source in compose["volumes"]
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")
        assert re.search(r":v?\d+\.\d+\.\d+$|IMAGE", service["image"])
    grace = int(services["csplade"]["stop_grace_period"].removesuffix("s"))
    assert grace > config.load().server.drain_seconds + config.load().server.lame_duck_seconds


def test_what_compose_mounts_is_what_prometheus_and_grafana_read():
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    mounts = dict(
        volume.removesuffix(":ro").split(":")[::-1]
        for volume in compose["services"]["prometheus"]["volumes"]
    )
    configuration = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    read = [
        *configuration["rule_files"],
        *(
            file
            for job in configuration["scrape_configs"]
            for discovery in job["file_sd_configs"]
            for file in discovery["files"]
            if not file.startswith("/")
        ),
    ]
    assert {f"/etc/prometheus/{name}" for name in read} <= mounts.keys()
    targets = ROOT / "deploy" / mounts["/etc/prometheus/targets.yml"]
    (group,) = yaml.safe_load(targets.read_text())
    assert group["targets"] == [f"csplade:{config.load().metrics.port}"]
    provisioning = ROOT / "deploy/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = yaml.safe_load((provisioning / "dashboards/csplade.yaml").read_text())[
        "providers"
    ]
    grafana = compose["services"]["grafana"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert (ROOT / "deploy/grafana/dashboards" / home.name).is_file()
