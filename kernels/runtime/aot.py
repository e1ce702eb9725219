"""Compile every kernel ahead of time, for devices that are not present, and inspect the result.

The ``triton.py`` and ``gluon.py`` modules of the ops list their kernels as ``AOT`` (see
:class:`AotCase`). Triton compiles them without a GPU. The report of the assembler gives registers,
stack and spills; the disassembly shows which instructions the machine code holds.
"""

from __future__ import annotations

import io
import pkgutil
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

from ...core.errors import UnavailableError
from .launch import INTERPRETED, triton

# Compute capabilities of A100, H100 and H200, B200.
CAPABILITIES = (80, 90, 100)
MAX_CAPABILITY = 999
# Groups of instructions that the table counts: prefixes of SASS mnemonics.
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
class AotCase:
    """Describe one kernel with everything that determines its machine code.

    Every kernel module lists its kernels as ``AOT: list[AotCase]``, in the configurations in which
    they are launched.

    Attributes:
        name: ``op/kernel/configuration``, unique.
        kernel: the function under ``@jit`` or ``@gluon.jit``.
        signature: argument to Triton type, all arguments in order: ``*bf16``, ``i32``, ``fp32``,
            ``constexpr``, ...
        constexprs: value of each argument whose type is ``constexpr``.
        num_warps: warps per program.
        num_stages: depth of software pipelining.
        max_registers: registers per thread at most; None leaves it to the compiler.
        aligned: pointers and integers that are divisible by 16 at a launch.
        expects: prefixes of SASS instructions that the machine code must hold, by the oldest
            capability for which they apply.
        min_capability: the oldest device on which this case is launched, 80 for sm_80.
        max_capability: the newest device on which this case is launched.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    max_registers: int | None = None
    aligned: tuple[str, ...] = ()
    expects: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    min_capability: int = 80
    max_capability: int = MAX_CAPABILITY

    def expected(self, capability: int) -> tuple[str, ...]:
        """Return the prefixes of instructions that the code for this capability must hold."""
        oldest = max((one for one in self.expects if one <= capability), default=None)
        return () if oldest is None else self.expects[oldest]

    @property
    def attrs(self) -> dict[tuple[int, ...], list[list[Any]]]:
        """Return ``aligned`` in the form that the Triton compiler takes."""
        names = list(self.signature)
        return {(names.index(name),): [["tt.divisibility", 16]] for name in self.aligned}

    def compile(self, capability: int) -> Any:
        """Return Triton's compiled kernel for a capability; in compiled mode only.

        It has ``asm["cubin"]``, ``asm["ptx"]``, ``metadata.shared`` and so on.
        """
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        source: Any = ASTSource
        if self.kernel.is_gluon():
            from triton.experimental.gluon._runtime import GluonASTSource

            source = GluonASTSource
        return triton.compile(
            source(self.kernel, dict(self.signature), dict(self.constexprs), self.attrs),
            target=GPUTarget("cuda", capability, 32),
            options={
                "num_warps": self.num_warps,
                "num_stages": self.num_stages,
                "maxnreg": self.max_registers,
            },
        )


@dataclass(frozen=True)
class Compiled:
    """Report one kernel compiled for one device.

    Attributes:
        name: name of the case.
        capability: 90 for sm_90.
        registers: registers per thread.
        shared_bytes: bytes of shared memory per program.
        stack_bytes: bytes of the stack frame of a thread.
        spill_bytes: bytes of spill stores and spill loads per thread.
        instructions: number of instructions of each group of :data:`GROUPS`.
        missing: expected instructions that the code does not hold.
        error: why it did not compile; "" if it compiled.
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
        """Return whether it compiled without spills and holds every expected instruction."""
        return not (self.error or self.missing or self.spill_bytes)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "ok": self.ok}

    def row(self) -> list[str]:
        """Return a row of the table with :data:`HEADINGS`."""
        numbers = [self.registers, self.shared_bytes, self.stack_bytes, self.spill_bytes]
        numbers += [(self.instructions or {}).get(group, 0) for group in GROUPS]
        faults = [self.error] * bool(self.error) + [f"no {name}" for name in self.missing]
        faults += ["spills"] * bool(self.spill_bytes)
        return [self.name, str(self.capability), *map(str, numbers), "; ".join(faults) or "ok"]


def cases() -> list[AotCase]:
    """Return every case of every op, sorted by name."""
    package = __name__.rpartition(".runtime.")[0]
    modules = pkgutil.walk_packages(import_module(package).__path__, f"{package}.")
    found = [
        case
        for module in modules
        if module.name.endswith((".triton", ".gluon"))
        for case in import_module(module.name).AOT
    ]
    return sorted(found, key=lambda case: case.name)


def compile_all(
    chosen: Iterable[AotCase],
    capabilities: Sequence[int] = CAPABILITIES,
    progress: Callable[[str], None] = lambda name: None,
) -> Iterator[Compiled]:
    """Compile cases for every capability on which they are launched.

    Raises:
        UnavailableError: Triton is not installed, or this process interprets kernels.
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
    except Exception as error:  # any error of the compiler is a result
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
            case.name, capability, error="the report of the assembler lacks registers or stack"
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
    """Collect the report of ptxas on the kernels compiled inside; bypass Triton's cache."""
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
