"""The image, built and run: health, search, drain, foreign users, no network, compose.

Minutes long where nothing is cached, so it runs with TEST_IMAGE=1, as CI does.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from csplade.client.client import Client
from csplade.ingest.build import build_from_corpus
from csplade.model import Encoder

from ..certificates import authority, leaf
from .engine import Engine, engine

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
IMAGE = "csplade:cpu"
LARGEST = 1_600_000_000  # bytes
TORCH = "torch==2.13.0+cpu"
PATIENCE = 180.0  # seconds until a container on a busy machine is ready

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif("TEST_IMAGE" not in os.environ, reason="builds an image; set TEST_IMAGE=1"),
]


@pytest.fixture(scope="session")
def docker() -> Iterator[Engine]:
    with engine() as one:
        yield one


@pytest.fixture(scope="session")
def image(docker, tmp_path_factory) -> str:
    """Build the committed files by ``make image``, on a base made here where none can be pulled."""
    context = tmp_path_factory.mktemp("context")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, context / name)
    wheels = context / "deploy" / "image"
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels]
    found = subprocess.run([*download, TORCH], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"pip finds no {TORCH} for the image: {found.stderr.splitlines()[-1:]}")
    docker.run(ROOT / "tests/deploy/bases.sh", "docker", "debian:bookworm-slim")
    docker.run("make", "-C", context, "image", "ENGINE=docker", "ARGS=--network host")
    return IMAGE


@pytest.fixture(scope="session")
def vectors(vector_index) -> Path:
    """The index of random vectors, readable to every user."""
    return readable(vector_index)


@pytest.fixture(scope="session")
def passages(tmp_path_factory) -> Path:
    """The example corpus, indexed by the embedded model, readable to every user."""
    path = tmp_path_factory.mktemp("passages") / "index"
    build_from_corpus(EXAMPLES / "corpus.jsonl", path, Encoder.from_pretrained("embedded"))
    return readable(path)


def readable(index: Path) -> Path:
    for folder in (index, *index.parents):
        if folder.owner() != "root" or folder.stat().st_mode & 0o1000:
            break
        folder.chmod(folder.stat().st_mode | 0o055)
    return index


@pytest.fixture
def run(docker, image) -> Iterator[Callable[..., str]]:
    """Start a container of the image in the background; its id."""
    started: list[str] = []

    def run(*options: object, arguments: tuple[object, ...] = ()) -> str:
        started.append(docker.docker("run", "--detach", *options, image, *arguments))
        return started[-1]

    yield run
    for container in started:
        docker.docker("rm", "--force", "--volumes", container)


def wait_for(docker: Engine, container: str, wanted: str = "healthy") -> None:
    """Wait until the image's own health check says so."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        state = json.loads(docker.docker("inspect", "--format", "{{json .State}}", container))
        if state["Health"]["Status"] == wanted:
            return
        if state["Status"] != "running":
            break
        time.sleep(0.5)
    pytest.fail(f"{state}: {docker.run('docker', 'logs', container).stderr[-3000:]}")


def mount(index: Path) -> list[str]:
    return ["--volume", f"{index}:/data/index:ro"]


def test_the_image_is_small_and_lists_what_it_contains(docker, image):
    assert int(docker.docker("image", "inspect", "--format", "{{.Size}}", image)) <= LARGEST
    bill = json.loads(
        docker.docker("run", "--rm", "--entrypoint", "cat", image, "/opt/csplade/sbom.json")
    )
    parts = {part["purl"].split("@")[0]: part for part in bill["components"]}
    assert len(parts["pkg:pypi/torch"]["hashes"][0]["content"]) == 64
    assert "pkg:deb/python3" in parts
    assert "pkg:pypi/csplade" in parts


SEARCH = """
from csplade import Client
with Client("localhost:50051") as client:
    print(client.search({1: 1.0, 2: 1.0}, k=3).matched)
"""


def test_it_serves_any_user_on_a_read_only_root_without_network(docker, run, vectors):
    container = run(
        "--user", "12345:12345", "--read-only", "--network", "none", "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges", *mount(vectors), "--env", "CSPLADE_MODEL__ENABLED=0",
    )  # fmt: skip
    wait_for(docker, container)
    assert int(docker.docker("exec", container, "python", "-c", SEARCH)) > 0
    docker.docker("stop", "--time", 40, container)
    state = json.loads(docker.docker("inspect", "--format", "{{json .State}}", container))
    assert state["ExitCode"] == 0
    logged = docker.run("docker", "logs", container).stderr
    assert '"message": "draining"' in logged
    assert '"message": "stopped"' in logged


def test_health_knows_any_port_and_mutual_tls(docker, run, vectors, tmp_path):
    ours = authority(tmp_path, "ours")
    server = leaf(tmp_path, "server", ours)
    server.private.chmod(0o644)
    container = run(
        *mount(vectors), "--volume", f"{readable(tmp_path)}:/tls:ro",
        arguments=(
            "serve", "--no-model", "--port", 6000, "--tls-certificate", "/tls/server.pem",
            "--tls-key", "/tls/server.key", "--client-ca", "/tls/ours.pem",
        ),
    )  # fmt: skip
    wait_for(docker, container)


@pytest.mark.parametrize("moment", ["at once", "while it loads"])
def test_it_stops_before_it_is_ready(docker, run, passages, moment):
    container = run(*mount(passages), "--env", "CSPLADE_MODEL__ENABLED=0")
    if moment == "while it loads":
        end = time.monotonic() + PATIENCE
        while docker.docker("top", container).count("csplade") < 2 and time.monotonic() < end:
            time.sleep(0.05)
    docker.docker("stop", "--time", 60, container)
    code = int(docker.docker("inspect", "--format", "{{.State.ExitCode}}", container))
    assert code in (0, 143)  # drained, or ended by the signal: never killed


def test_a_missing_base_model_names_the_container_command(docker, image, passages):
    failed = docker.run("docker", "run", "--rm", *mount(passages), image, check=False)
    assert failed.returncode == 1
    assert "docker run --rm -v VOLUME:/cache IMAGE model pull" in failed.stderr


def test_threads_are_those_of_the_quota(docker, image):
    code = (
        "import csplade.model, torch; from csplade.core.machine import cores;"
        "print(cores(), torch.get_num_threads())"
    )
    counted = docker.docker("run", "--rm", "--cpus", 1, "--entrypoint", "python", image, "-c", code)
    assert counted == "1 1"


UBUNTU = """
FROM nvidia/cuda:13.0.0-base-ubuntu24.04
RUN apt-get update && apt-get install -y --no-install-recommends \\
    ca-certificates gcc libc6-dev python3-dev python3-venv
RUN python3 -m venv /venv
COPY triton.txt ./
RUN /venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r triton.txt
COPY triton_driver.py load_beside_driver.py ./
RUN /venv/bin/python load_beside_driver.py $(/venv/bin/python triton_driver.py)
"""


def test_the_launcher_of_the_image_for_a_gpu_loads_beside_a_driver(docker, tmp_path):
    """Of that image only the one step that differs is built: it takes gigabytes."""
    base = docker.run(
        ROOT / "tests/deploy/bases.sh", "docker", "nvidia/cuda:13.0.0-base-ubuntu24.04", check=False
    )
    if base.returncode:
        pytest.skip(f"no Ubuntu packages for the base: {base.stderr.splitlines()[-1:]}")
    lock = (ROOT / "deploy/image/requirements-cuda.txt").read_text().splitlines()
    (triton,) = (line for line in lock if line.startswith("triton=="))
    (tmp_path / "Dockerfile").write_text(UBUNTU)
    (tmp_path / "triton.txt").write_text(triton)
    shutil.copy2(ROOT / "deploy/image/triton_driver.py", tmp_path)
    shutil.copy2(ROOT / "tests/deploy/load_beside_driver.py", tmp_path)
    docker.docker("build", "--network", "host", "--tag", "csplade-launcher", tmp_path)


@pytest.fixture
def compose(docker, image, passages, tmp_path) -> Iterator[Callable[..., str]]:
    """Docker Compose on deploy/compose.yaml, ports and index of its own."""
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed (Debian: apt-get install docker-compose)")
    docker.run(ROOT / "tests/deploy/bases.sh", "docker", "prom/prometheus:v2.53.0")
    file = ROOT / "deploy" / "compose.yaml"
    if docker.run("docker-compose", "version", "--short").stdout.startswith("1."):
        file = for_version_1(file, tmp_path)
    environment = {"GRPC_PORT": str(free_port()), "PROMETHEUS_PORT": str(free_port())}
    own = Engine(docker.environment | environment | {"INDEX": str(passages)})

    def compose(*arguments: object, **changes: str) -> subprocess.CompletedProcess:
        command = [
            "docker-compose", "--project-name", "csplade-test", "--file", file,
            "--project-directory", ROOT / "deploy",
        ]  # fmt: skip
        return Engine(own.environment | changes).run(*command, *arguments, check=not changes)

    compose.ports = environment
    yield compose
    compose("down", "--volumes", "--timeout", 60)


def for_version_1(file: Path, folder: Path) -> Path:
    """Leave out the two keys that Compose 1 does not know; it needs neither."""
    content = yaml.safe_load(file.read_text())
    del content["name"]
    for service in content["services"].values():
        for volume in service["volumes"]:
            if isinstance(volume, dict):
                del volume["bind"]
    written = folder / "compose.yaml"
    written.write_text(yaml.safe_dump(content))
    return written


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_compose_serves_and_prometheus_scrapes(docker, compose):
    compose("up", "--detach", "csplade", "prometheus")
    container = compose("ps", "--quiet", "csplade").stdout.strip()
    wait_for(docker, container)
    with Client(f"127.0.0.1:{compose.ports['GRPC_PORT']}") as client:
        answer = client.search("airline lost my bags", k=1, with_document=True)
    assert answer.hits[0].document.title == "When the suitcase does not arrive"
    url = f"http://127.0.0.1:{compose.ports['PROMETHEUS_PORT']}/api/v1/query?query=up"
    end = time.monotonic() + PATIENCE
    up: dict[str, str] = {}
    while up.get("csplade:9464") != "1" and time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                result = json.load(response)["data"]["result"]
        except (urllib.error.URLError, ConnectionError):
            result = []
        up = {one["metric"]["instance"]: one["value"][1] for one in result}
        time.sleep(0.5)
    assert up == {"csplade:9464": "1"}
    compose("stop", "csplade")
    state = json.loads(docker.docker("inspect", "--format", "{{json .State}}", container))
    assert state["ExitCode"] == 0


def test_a_mistyped_index_is_an_error_and_makes_no_folder(compose, tmp_path):
    missing = tmp_path / "indexx"
    failed = compose("up", "--no-deps", "--detach", "csplade", INDEX=str(missing))
    assert failed.returncode
    assert str(missing) in failed.stderr
    assert not missing.exists()
