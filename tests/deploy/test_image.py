"""Dockerfile and compose file. No engine builds them here: they are read, and the steps of
installation are run.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import yaml

from csplade.core.document import Document
from csplade.core.vectors import SparseBatch
from csplade.index import BuildOptions, IndexBuilder
from csplade.service import settings as config

ROOT = Path(__file__).parents[2]
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


def test_base_images_are_pinned_and_the_argument_chooses_among_them():
    assert ARGUMENTS == {"VARIANT": "cuda"}
    outside = [stage.base for stage in STAGES if stage.base not in NAMED and "$" not in stage.base]
    assert len(outside) == 2
    for image in outside:
        name, _, tag = image.partition(":")
        assert re.search(r"\d", tag), f"{name} has no version"
    assert NAMED["base"].base == "base-${VARIANT}"
    assert "cuda" in NAMED["base-cuda"].base
    assert "cuda" not in NAMED["base-cpu"].base
    assert (NAMED["build"].base, FINAL.base) == ("base", "base")  # the same Python in both


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
                else:
                    assert (ROOT / source).exists()
                    assert not ignored(source)


def test_what_installation_needs_is_not_ignored_and_secrets_are():
    kept = set(context())
    for needed in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "py.typed",
        "deploy/image/triton_driver.py",
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
        assert f"install -d -o {user} " in " ".join(FINAL.all("RUN"))
        assert volume in " ".join(FINAL.all("RUN"))


def test_everything_installed_is_pinned():
    installs = [step for stage in STAGES for step in stage.all("RUN") if "pip install" in step]
    assert installs
    assert all("-c constraints.txt" in step for step in installs)


def test_the_environment_of_the_image_is_a_valid_configuration(monkeypatch):
    (environment,) = FINAL.all("ENV")
    values = dict(pair.split("=", 1) for pair in environment.split())
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = config.load()
    assert str(settings.index) == "/data/index"
    assert (settings.server.host, settings.metrics.host) == ("0.0.0.0", "0.0.0.0")
    assert sorted(map(int, FINAL.all("EXPOSE")[0].split())) == [
        settings.metrics.port,
        settings.server.port,
    ]
    assert f"localhost:{settings.server.port}" in FINAL.all("HEALTHCHECK")[0]


def test_compose_puts_the_three_together():
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    services = compose["services"]
    assert services.keys() == {"csplade", "prometheus", "grafana"}
    folder = ROOT / "deploy"
    assert (folder / services["csplade"]["build"]["context"] / "Dockerfile").is_file()
    known = ARGUMENTS.keys() | {rest.split("=")[0] for rest in NAMED["build"].all("ARG")}
    assert services["csplade"]["build"]["args"].keys() <= known
    for service in services.values():
        for volume in service["volumes"]:
            source = re.sub(r"\$\{[^}]*\}", "$", volume).split(":")[0]
            if source.startswith("."):
                assert (folder / source).is_dir()
            elif source != "$":
                assert source in compose["volumes"]
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:")
        assert "build" in service or re.search(r":v?\d+\.\d+\.\d+$", service["image"])


def test_what_compose_mounts_is_what_prometheus_and_grafana_read():
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    (mounted,) = compose["services"]["prometheus"]["configs"]
    job = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"][
        0
    ]
    assert mounted["target"] == f"/etc/prometheus/{job['file_sd_configs'][0]['files'][0]}"
    (group,) = yaml.safe_load(compose["configs"][mounted["source"]]["content"])
    (metrics,) = group["targets"]
    assert metrics == f"csplade:{config.load().metrics.port}"
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


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(
    "TEST_IMAGE" not in os.environ, reason="installs torch anew; TEST_IMAGE=1 says to"
)
def test_the_steps_of_installation_work_and_what_they_make_serves(tmp_path):
    """Every RUN of the build stage but those of the system's package manager, word for word but for
    the place.
    """
    source, place = tmp_path / "src", tmp_path / "csplade"
    for file in context():
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, source / file)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "CSPLADE"))
    }
    environment |= {
        "PATH": f"{place}/bin:{os.environ['PATH']}",
        "TORCH_INDEX": "",
        "PIP_NO_COMPILE": "1",
    }
    for step in NAMED["build"].all("RUN"):
        if "apt-get" in step:
            continue
        step = step.replace("/opt/csplade", str(place)).replace(
            "python3 -m venv", f"{sys.executable} -m venv"
        )
        done = subprocess.run(
            ["sh", "-ec", step], cwd=source, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{step}: {done.stdout[-2000:]} {done.stderr[-2000:]}"

    def run(*command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    assert run("python", "-m", "pip", "check").returncode == 0
    probe = json.loads(FINAL.all("HEALTHCHECK")[0].partition("CMD ")[2])
    index = tmp_path / "index"
    builder = IndexBuilder.create(index, BuildOptions(10))
    row = (np.array([1, 2]), np.array([1.0, 2.0], np.float32))
    builder.add([Document("a", "")], SparseBatch.from_rows([row]))
    builder.finish()
    command = [*json.loads(FINAL.all("ENTRYPOINT")[0]), *json.loads(FINAL.all("CMD")[0])]
    settings = {
        "CSPLADE_INDEX": str(index), "CSPLADE_SERVER__PORT": "0", "CSPLADE_METRICS__PORT": "0",
        "CSPLADE_CACHE": str(tmp_path / "cache"), "NUMBA_CACHE_DIR": str(tmp_path / "cache" / "numba"),
    }  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment | settings,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            address = server.stdout.readline().strip()
            assert address, (tmp_path / "log").read_text()
            healthy = run(*probe[:-1], address)
            assert (healthy.returncode, healthy.stdout.split()[-1]) == (0, "SERVING")
        finally:
            server.terminate()
            assert server.wait(60) == 0
    assert run(*probe[:-1], address).returncode == 1
