"""Print the bill of materials of an image, CycloneDX JSON: ``python sbom.py VARIANT``.

Every Python and Debian package with version and licence; wheels with the SHA-256 that pip checked.
"""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path


def wheels(lock: Path) -> list[dict[str, object]]:
    """Return a component for every installed distribution."""
    sums = dict(re.findall(r"^(\S+)==\S+ --hash=sha256:(\w+)$", lock.read_text(), re.MULTILINE))
    found = []
    for one in sorted(metadata.distributions(), key=lambda one: one.name.lower()):
        name = re.sub(r"[-_.]+", "-", one.name).lower()
        part: dict[str, object] = {
            "type": "library",
            "name": name,
            "version": one.version,
            "purl": f"pkg:pypi/{name}@{one.version}",
        }
        if name in sums:
            part["hashes"] = [{"alg": "SHA-256", "content": sums[name]}]
        if licence := one.metadata.get("License-Expression"):
            part["licenses"] = [{"expression": licence}]
        found.append(part)
    return found


def system_packages() -> list[dict[str, object]]:
    """Return a component for every package of the base's package manager."""
    form = "${Package} ${Version} ${Architecture}\n"
    listed = subprocess.run(
        ["dpkg-query", "--show", f"--showformat={form}"], capture_output=True, text=True, check=True
    )
    return [
        {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:deb/{name}@{version}?arch={architecture}",
        }
        for name, version, architecture in map(str.split, listed.stdout.splitlines())
    ]


if __name__ == "__main__":
    lock = Path(__file__).with_name(f"requirements-{sys.argv[1]}.txt")
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "metadata": {"component": {"type": "container", "name": f"csplade-{sys.argv[1]}"}},
        "components": [*wheels(lock), *system_packages()],
    }
    json.dump(bill, sys.stdout, indent=1)
