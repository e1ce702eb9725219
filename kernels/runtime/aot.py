"""compile: every kernel ahead of time, for devices that are not here, and what its machine code
holds.

An op module lists its kernels as ``AOT`` (see :class:`.launch.AotCase`). Triton compiles them
without a GPU; the assembler's own report gives registers, stack and spills, the disassembly tells
which instructions are really there.
"""

from __future__ import annotations

import io
import pkgutil
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from ...core.errors import UnavailableError
from .launch import INTERPRETED, AotCase, triton

# Compute capabilities of A100, H100 and H200, B200.
CAPABILITIES = (80, 90, 100)
# What the table counts: beginnings of SASS mnemonics.
GROUPS = {
    "tensor": ("HMMA", "IMMA", "HGMMA", "IGMMA", "QGMMA", "UTCHMMA", "UTCIMMA", "UTCQMMA"),
    "shared_loads": ("LDS",),
    "shared_stores": ("STS",),
    "shared_atomics": ("ATOMS",),
    "global_atomics": ("ATOM.", "ATOMG", "RED", "REDG"),
    "bulk_copies": ("LDGSTS", "UTMALDG", "UBLKCP"),
}
HEADINGS = [
    "kernel", "sm", "registers", "shared bytes", "stack", "spills",
    *(group.replace("_", " ") for group in GROUPS), "verdict",
]  # fmt: skip
MNEMONIC = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)


@dataclass(frozen=True)
class Compiled:
    """One kernel for one device.

    Attributes:
        name: of the case.
        capability: 90 for sm_90.
        registers: per thread.
        shared_bytes: shared memory of a program.
        stack_bytes: stack frame of a thread.
        spill_bytes: stores and loads of spilled registers, bytes a thread.
        instructions: how often each group of :data:`GROUPS` stands in the code.
        missing: expected instructions that are not there.
        error: why it did not compile; "" if it did.
    """

    name: str
    capability: int
    registers: int = 0
    shared_bytes: int = 0
    stack_bytes: int = 0
    spill_bytes: int = 0
    instructions: dict[str, int] | None = None
    missing: tuple[str, ...] = ()
    error: str = ""

    @property
    def ok(self) -> bool:
        """Compiled, spills nothing, and has every instruction that it should have."""
        return not (self.error or self.missing or self.spill_bytes)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "ok": self.ok}

    def row(self) -> list[str]:
        """As a row under :data:`HEADINGS`."""
        numbers = [self.registers, self.shared_bytes, self.stack_bytes, self.spill_bytes]
        numbers += [(self.instructions or {}).get(group, 0) for group in GROUPS]
        faults = [self.error] * bool(self.error) + [f"no {name}" for name in self.missing]
        faults += ["spills"] * bool(self.spill_bytes)
        return [self.name, str(self.capability), *map(str, numbers), "; ".join(faults) or "ok"]


def cases() -> list[AotCase]:
    """Every case of every op module, by name."""
    package = __name__.rpartition(".")[0]
    found: dict[str, AotCase] = {}
    for module in pkgutil.iter_modules(import_module(package).__path__):
        for case in getattr(import_module(f"{package}.{module.name}"), "AOT", ()):
            found[case.name] = case
    return [found[name] for name in sorted(found)]


def compile_all(
    chosen: Iterable[AotCase],
    capabilities: Sequence[int] = CAPABILITIES,
    progress: Callable[[str], None] = lambda name: None,
) -> Iterator[Compiled]:
    """Compile cases for every capability they are meant for.

    Raises:
        UnavailableError: there is no Triton, or it interprets kernels in this process.
    """
    if triton is None:
        raise UnavailableError(
            "kernels cannot be compiled: triton is not installed; pip install triton"
        )
    if INTERPRETED:
        raise UnavailableError(
            "kernels cannot be compiled: this process interprets them; unset TRITON_INTERPRET"
        )
    for case in chosen:
        for capability in capabilities:
            if case.min_capability <= capability <= case.max_capability:
                progress(f"{case.name} sm_{capability}")
                yield _compile(case, capability)


def _compile(case: AotCase, capability: int) -> Compiled:
    try:
        with _report_of_assembler() as report:
            kernel = case.compile(capability)
    except Exception as error:  # whatever the compiler says is the finding
        return Compiled(
            case.name, capability, error=" ".join(str(error).split())[:300] or type(error).__name__
        )
    text = report.getvalue()
    used = re.search(r"Used (\d+) registers", text)
    frame = re.search(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", text
    )
    if used is None or frame is None:
        return Compiled(
            case.name, capability, error="the assembler reported neither registers nor stack"
        )
    mnemonics = Counter(MNEMONIC.findall(_disassemble(kernel.asm["cubin"])))

    def count(*beginnings: str) -> int:
        return sum(times for name, times in mnemonics.items() if name.startswith(beginnings))

    return Compiled(
        case.name,
        capability,
        int(used[1]),
        kernel.metadata.shared,
        int(frame[1]),
        int(frame[2]) + int(frame[3]),
        {group: count(*beginnings) for group, beginnings in GROUPS.items()},
        tuple(name for name in case.expected(capability) if not count(name)),
    )


@contextmanager
def _report_of_assembler() -> Iterator[io.StringIO]:
    """What ptxas says of the kernels compiled meanwhile; nothing is taken from Triton's cache."""
    report = io.StringIO()
    with triton.knobs.nvidia.scope(), triton.knobs.compilation.scope(), redirect_stdout(report):
        triton.knobs.nvidia.dump_ptxas_log = True
        triton.knobs.compilation.always_compile = True
        yield report


def _disassemble(cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [triton.knobs.nvidia.nvdisasm.path, "-c", file.name],
            capture_output=True,
            text=True,
            check=True,
        )
    return done.stdout
