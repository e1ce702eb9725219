"""Check, before anything is loaded, that the service fits into this machine's memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..core.errors import UnavailableError
from ..index import IndexManifest
from .settings import Settings

MIB = 2**20
# Python, numba and grpcio; torch and transformers. Measured after the start without segments and
# weights, rounded up.
PROCESS_BYTES = 300 * MIB
ENCODER_BYTES = 700 * MIB

CGROUPS = (  # limit, use, and the part of the use that can be reclaimed, in a container
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def check_memory(settings: Settings) -> None:
    """Raise if the index and the encoder do not fit into main memory.

    Segments are read into main memory on a GPU machine too; the GPU's own memory is checked when
    they are copied there. Nothing is checked where the system does not say how much is free.

    Raises:
        CorruptError: no index there.
        UnavailableError: more is needed than there is, with the numbers.
    """
    if settings.index is None:
        return
    manifest = IndexManifest.open(settings.index)
    named = settings.model.path or (manifest.encoder or {}).get("model")
    parts = {"segments": manifest.bytes, "process": PROCESS_BYTES}
    if settings.model.enabled and named is not None:
        parts |= {"encoder's libraries": ENCODER_BYTES, "model": _file_bytes(Path(named))}
    needed, free = sum(parts.values()), available_memory()
    if free is None or needed <= free:
        return
    parts_text = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in parts.items() if size)
    raise UnavailableError(
        f"{settings.index}: needs {needed / 2**30:.2f} GiB of memory ({parts_text}), "
        f"{free / 2**30:.2f} GiB are free; build it in more shards for more machines (`csplade "
        "plan` says how many), or use a machine with more"
    )


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that new processes can have, within the container's limit; None if unknown.

    Args:
        root: Where /proc and /sys are.
    """
    free = [*_machine(root), *_container(root)]
    return min(free) if free else None


def _machine(root: Path) -> Iterator[int]:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _container(root: Path) -> Iterator[int]:
    for limit_file, use_file, gives_way in CGROUPS:
        base = root / "sys/fs/cgroup"
        try:
            limit = (base / limit_file).read_text().strip()
            use = int((base / use_file).read_text())
            stat = (base / limit_file).with_name("memory.stat").read_text().splitlines()
        except (OSError, ValueError):
            continue
        if limit != "max":
            cached = sum(int(line.split()[1]) for line in stat if line.split()[:1] == [gives_way])
            yield max(0, int(limit) - use + cached)


def _file_bytes(directory: Path) -> int:
    """Return the bytes of a model's weights in a directory; 0 for a model fetched by name."""
    return (
        sum(path.stat().st_size for path in directory.glob("*.safetensors"))
        if directory.is_dir()
        else 0
    )
