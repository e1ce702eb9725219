"""Write requirements-VARIANT.txt: every wheel of an image, pinned by version and SHA-256.

``python deploy/image/lock.py [VARIANT ...]``, after a change of pyproject.toml or constraints.txt.
Versions are those of constraints.txt. The CPU variants need an index that offers torch's builds for
the CPU: name it by pip's own variables, PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Variant of the image: the extras of csplade, the Python of its base, and the build of torch.
VARIANTS = {
    "cpu": ("server,tracing", "3.11", "torch==2.13.0+cpu"),
    "cpu-ray": ("ray,server,tracing", "3.11", "torch==2.13.0+cpu"),
    "cuda": ("ray,server,tracing", "3.12", "torch==2.13.0"),
}
GLIBC = 36  # Debian bookworm's; Ubuntu noble's is newer


def main() -> None:
    """Write the files of the variants named on the command line, or of all."""
    for variant in sys.argv[1:] or VARIANTS:
        extras, python, torch = VARIANTS[variant]
        wheels = resolve(extras, python, torch)
        lines = [f"{name}=={version} --hash=sha256:{sha}" for name, version, sha in wheels]
        head = f"# csplade[{extras}] on Python {python}, written by deploy/image/lock.py.\n"
        (HERE / f"requirements-{variant}.txt").write_text(head + "\n".join(lines) + "\n")
        print(f"requirements-{variant}.txt: {len(lines)} wheels")


def resolve(extras: str, python: str, torch: str) -> list[tuple[str, str, str]]:
    """Return name, version and SHA-256 of every wheel that pip would install, ordered by name."""
    with tempfile.TemporaryDirectory() as work:
        report = Path(work) / "report.json"
        platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in range(GLIBC, 4, -1)]
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
            "--only-binary=:all:", f"--target={work}/target", f"--report={report}",
            "--implementation=cp", f"--python-version={python}",
            *platforms, "--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64",
            f"--constraint={ROOT / 'constraints.txt'}", torch, *requirements(extras),
        ]  # fmt: skip
        subprocess.run(command, check=True)
        found = json.loads(report.read_text())["install"]
    wheels = [
        (
            re.sub(r"[-_.]+", "-", one["metadata"]["name"]).lower(),
            one["metadata"]["version"],
            one["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for one in found
    ]
    return sorted(wheels)


def requirements(extras: str) -> list[str]:
    """Return the direct requirements of csplade with these extras."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["optional-dependencies"][extra] for extra in extras.split(",")]
    lines = [*project["dependencies"], *(line for lines in lists for line in lines)]
    return [line for line in lines if not line.startswith("csplade[")]


if __name__ == "__main__":
    main()
