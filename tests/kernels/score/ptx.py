"""A small machine for PTX: runs what Triton compiled for a GPU, on the CPU, and looks for races.

It knows the instructions that the scoring kernel is made of and stops at any other. Warps run one
after another, in random order, from barrier to barrier; lanes of a warp run in step. It stops with
an error at: an access outside of the arguments' memory or of the shared memory taken, a misaligned
access, two warps touching one word of shared memory between two barriers unless both read or both
use atomics, two programs storing to the same byte, a branch that lanes of one warp do not agree on,
a barrier that some warps miss, a register read before it was written.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LANES = 32
ALIGNMENT = 256
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
SIGNED = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}
COMPARE = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
SIMPLE = {
    "add": np.add,
    "sub": np.subtract,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "max": np.maximum,
    "min": np.minimum,
    "rem": np.fmod,
}


class Fault(Exception):
    """What a GPU would answer with an error, or with another result next time."""


def dtype_of(name: str) -> np.dtype:
    """NumPy type of a PTX type such as ``u32``, ``s64``, ``b16`` or ``pred``."""
    if name == "pred":
        return np.dtype(bool)
    size = int(name[1:]) // 8
    if name[0] == "f":
        return np.dtype(f"f{size}")
    return np.dtype(SIGNED[size] if name[0] == "s" else UNSIGNED[size])


class Program:
    """A parsed entry function: statements (guard, expected, opcode, operands), labels, register
    types.
    """

    def __init__(self, text: str) -> None:
        text = re.sub(r"//[^\n]*", "", text)
        text = re.sub(r"^\s*\.(loc|file|section)[^\n]*$", "", text, flags=re.M)
        head, body = text[text.index(".entry") :].split("{", 1)
        self.parameters = re.findall(r"\.param\s+\.(\w+)(?:[^,)]*?)\s(\w+)\s*[,)]", head)
        self.threads = int(re.search(r"\.reqntid\s+(\d+)", head).group(1))
        self.statements: list[tuple[str | None, bool, list[str], list[str]]] = []
        self.labels: dict[str, int] = {}
        self.types = {
            "%p": np.dtype(bool),
            "%rs": dtype_of("b16"),
            "%r": dtype_of("b32"),
            "%rd": dtype_of("b64"),
        }
        for piece in body[: body.index("$L__func_end0")].split(";"):
            statement = piece.strip()
            while found := re.match(r"([$\w]+):|[{}]", statement):
                if found.group(1):
                    self.labels[found.group(1)] = len(self.statements)
                statement = statement[found.end() :].strip()
            if found := re.match(r"\.reg\s+\.(\w+)\s+([\w%<>]+)", statement):
                self.types.setdefault(found.group(2).split("<")[0], dtype_of(found.group(1)))
            elif statement:
                guard, expected, rest = None, True, statement
                if found := re.match(r"@(!?)([%\w]+)\s+", statement):
                    guard, expected, rest = (
                        found.group(2),
                        not found.group(1),
                        statement[found.end() :],
                    )
                opcode, _, operands = rest.partition(" ") if " " in rest else rest.partition("\t")
                self.statements.append(
                    (guard, expected, opcode.strip().split("."), split(operands))
                )

    def type(self, register: str) -> np.dtype:
        """Type of a register."""
        return self.types[re.sub(r"\d+$", "", register) if register.startswith("%") else register]


def split(text: str) -> list[str]:
    """Operands: commas inside of brackets do not part them."""
    return [
        one.strip() for one in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,])+", text) if one.strip()
    ]


class Memory:
    """Bytes with gaps between what was put in, so that an access outside of it shows."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.starts, end = [], ALIGNMENT
        for size in sizes:
            self.starts.append(end)
            end += -(-size // ALIGNMENT) * ALIGNMENT + ALIGNMENT
        self.bytes = np.full(end, 0xA5, np.uint8)
        self.valid = np.zeros(end, bool)
        for start, size in zip(self.starts, sizes, strict=True):
            self.valid[start : start + size] = True

    def places(self, addresses: NDArray, size: int) -> NDArray:
        """Byte positions [n, size] of one access per lane."""
        if (addresses % size).any():
            raise Fault(
                f"misaligned access of {size} bytes at {addresses[addresses % size != 0][0]:#x}"
            )
        places = addresses.astype(np.int64)[:, None] + np.arange(size)
        if ((places < 0) | (places >= len(self.bytes))).any() or not self.valid[places].all():
            raise Fault(f"access of {size} bytes outside of memory")
        return places

    def load(self, addresses: NDArray, dtype: np.dtype) -> NDArray:
        """One value per address."""
        return self.bytes[self.places(addresses, dtype.itemsize)].view(dtype)[:, 0]

    def store(self, addresses: NDArray, values: NDArray) -> None:
        """One value per address."""
        self.bytes[self.places(addresses, values.itemsize)] = np.ascontiguousarray(values)[
            :, None
        ].view(np.uint8)

    def change(self, by: np.ufunc, addresses: NDArray, values: NDArray) -> None:
        """Change values lane by lane, so that lanes may share an address."""
        for i in range(len(addresses)):
            at = addresses[i : i + 1]
            self.store(at, by(self.load(at, values.dtype), values[i : i + 1]))


class Shared(Memory):
    """Shared memory of one program that remembers which warps touched which word since the last
    barrier.
    """

    def __init__(self, size: int) -> None:
        super().__init__([size])
        self.base = self.starts[0]
        self.touched = {
            kind: np.zeros(len(self.bytes) // 4, np.uint64) for kind in ("read", "written", "added")
        }

    def touch(self, kind: str, addresses: NDArray, size: int, warp: int) -> None:
        """Note an access."""
        words = np.unique(self.places(addresses, size) // 4)
        self.touched[kind][words] |= np.uint64(1 << warp)

    def barrier(self) -> None:
        """Stop if what happened since the last barrier depends on the order of warps."""
        read, written, added = (self.touched[kind] for kind in ("read", "written", "added"))
        everyone = read | written | added
        several = (everyone & (everyone - np.uint64(1))) != 0
        race = several & ((written != 0) | ((added != 0) & (read != 0)))
        if race.any():
            raise Fault(f"race on shared word {int(np.flatnonzero(race)[0]) - self.base // 4}")
        for masks in self.touched.values():
            masks[:] = 0


class Warp:
    """Registers and place of one warp; ``run`` yields at every barrier."""

    def __init__(
        self, program: Program, number: int, grid: tuple[int, int], parameters: dict[str, int]
    ) -> None:
        self.program, self.number, self.parameters = program, number, parameters
        self.registers: dict[str, NDArray] = {
            "%tid.x": np.arange(number * LANES, (number + 1) * LANES, dtype=np.uint32),
            "%ctaid.x": np.full(LANES, grid[0], np.uint32),
            "%ctaid.y": np.full(LANES, grid[1], np.uint32),
        }

    def value(self, operand: str, dtype: np.dtype) -> NDArray:
        """An operand as this type."""
        if operand == "global_smem":
            return np.full(LANES, self.shared.base, dtype)
        if re.match(r"-?\d", operand):
            number = int(operand.rstrip("U"), 0) & ((1 << 64) - 1)
            return np.full(LANES, number, np.uint64).astype(dtype)
        if operand not in self.registers:
            raise Fault(f"register {operand} is read before it is written")
        held = self.registers[operand]
        return (
            held
            if held.dtype == dtype
            else held.view(dtype)
            if held.itemsize == dtype.itemsize
            else held.astype(dtype)
        )

    def put(self, register: str, values: NDArray, live: NDArray) -> None:
        """Write a register where lanes are live."""
        dtype = self.program.type(register)
        values = values if values.dtype == dtype else values.astype(dtype)
        if not live.all():
            values = np.where(live, values, self.registers.get(register, np.zeros(LANES, dtype)))
        self.registers[register] = values

    def address(self, operand: str) -> NDArray:
        """Addresses of ``[register + offset]``."""
        base, _, offset = operand.strip("[] ").partition("+")
        dtype = self.program.type(base.strip())
        return self.value(base.strip(), dtype) + np.full(LANES, int(offset or 0), dtype)

    def run(self, shared: Shared, memory: Memory) -> Iterator[None]:
        """Run to the end."""
        self.shared, self.memory, at = shared, memory, 0
        while True:
            guard, expected, opcode, operands = self.program.statements[at]
            at += 1
            live = (
                np.ones(LANES, bool)
                if guard is None
                else self.value(guard, np.dtype(bool)) == expected
            )
            if opcode[0] == "bra":
                if live.any() != live.all():
                    raise Fault("lanes of a warp part at a branch")
                at = self.program.labels[operands[0]] if live.all() else at
            elif opcode[0] == "bar":
                yield
            elif opcode[0] == "ret":
                return
            elif opcode[0] in ("ld", "st", "red", "atom"):
                self.access(opcode, operands, live)
            elif opcode[0] == "mov" and operands[0].startswith("{"):
                self.unpack(
                    split(operands[0].strip("{} ")), operands[1], dtype_of(opcode[-1]), live
                )
            else:
                self.put(operands[0], self.compute(opcode, operands[1:]), live)

    def unpack(self, registers: list[str], operand: str, dtype: np.dtype, live: NDArray) -> None:
        """Split a register into parts, the lowest bits first; ``_`` takes no part."""
        size = dtype.itemsize // len(registers)
        parts = self.value(operand, dtype)[:, None].view(UNSIGNED[size])
        for i, register in enumerate(registers):
            if register != "_":
                self.put(register, np.ascontiguousarray(parts[:, i]), live)

    def access(self, opcode: list[str], operands: list[str], live: NDArray) -> None:
        """Loads, stores and atomics."""
        kind, space, dtype = opcode[0], opcode[1], dtype_of(opcode[-1])
        if space == "param":
            number = self.parameters[operands[1].strip("[]")] & ((1 << 64) - 1)
            self.put(operands[0], np.full(LANES, number, np.uint64).astype(dtype), live)
            return
        if not live.any():
            return
        memory = self.shared if space == "shared" else self.memory
        if kind in ("red", "atom"):
            assert opcode[-2] in ("add", "max"), opcode
            place, amount = operands[-2:]
            if space == "shared":
                self.shared.touch("added", self.address(place)[live], dtype.itemsize, self.number)
            change = np.add if opcode[-2] == "add" else np.maximum
            memory.change(change, self.address(place)[live], self.value(amount, dtype)[live])
            return
        place, names = (operands[1], operands[0]) if kind == "ld" else (operands[0], operands[1])
        registers = split(names.strip("{} "))
        addresses = self.address(place)
        memory.places(addresses[live], dtype.itemsize * len(registers))
        for i, register in enumerate(registers):
            part = addresses + np.array(i * dtype.itemsize, addresses.dtype)
            if space == "shared":
                self.shared.touch(
                    "read" if kind == "ld" else "written", part[live], dtype.itemsize, self.number
                )
            if kind == "st":
                memory.store(part[live], self.value(register, dtype)[live])
            else:
                values = np.zeros(LANES, dtype)
                values[live] = memory.load(part[live], dtype)
                self.put(register, values, live)
        if kind == "st" and space == "global":
            self.stored.append(
                memory.places(addresses[live], dtype.itemsize * len(registers)).ravel()
            )

    def compute(self, opcode: list[str], operands: list[str]) -> NDArray:
        """Arithmetic: the value of the destination."""
        name, dtype = opcode[0], dtype_of(opcode[-1])
        if name in SIMPLE:
            return SIMPLE[name](self.value(operands[0], dtype), self.value(operands[1], dtype))
        if name == "mov" and operands[0].startswith("{"):
            registers = split(operands[0].strip("{} "))
            part = np.dtype(UNSIGNED[dtype.itemsize // len(registers)])
            parts = [self.value(register, part) for register in registers]
            return np.stack(parts, axis=1).view(UNSIGNED[dtype.itemsize])[:, 0]
        if name == "mov":
            return self.value(operands[0], dtype)
        if name == "setp":
            return COMPARE[opcode[1]](
                self.value(operands[0], dtype), self.value(operands[1], dtype)
            )
        if name == "selp":
            chosen = self.value(operands[2], np.dtype(bool))
            return np.where(chosen, self.value(operands[0], dtype), self.value(operands[1], dtype))
        if name == "cvt":
            # cvt.to.from, or with a rounding mode: cvt.rn.f32.s32
            to = dtype_of(opcode[-2])
            result = self.value(operands[0], dtype).astype(to)
            return result.view(UNSIGNED[to.itemsize]) if to.kind == "f" else result
        if name in ("mul", "mad"):
            wide = dtype if opcode[1] == "lo" else dtype_of(f"{opcode[-1][0]}{16 * dtype.itemsize}")
            assert opcode[1] in ("lo", "wide"), opcode
            product = self.value(operands[0], dtype).astype(wide) * self.value(
                operands[1], dtype
            ).astype(wide)
            return product if name == "mul" else product + self.value(operands[2], wide)
        if name in ("shl", "shr"):
            amount = self.value(operands[1], np.dtype(np.uint32)).astype(dtype)
            assert (amount < 8 * dtype.itemsize).all(), opcode
            return (np.left_shift if name == "shl" else np.right_shift)(
                self.value(operands[0], dtype), amount
            )
        if name == "redux":
            assert opcode[1:3] in (["sync", "add"], ["sync", "max"]), opcode
            values = self.value(operands[0], dtype)
            return np.full(
                LANES, values.sum(dtype=dtype) if opcode[2] == "add" else values.max(), dtype
            )
        if name == "bfe":
            start, length = (int(one) for one in operands[1:])
            return (self.value(operands[0], dtype) >> dtype.type(start)) & dtype.type(
                (1 << length) - 1
            )
        if name == "popc":
            return np.bitwise_count(self.value(operands[0], dtype))
        if name == "prmt":
            both = self.value(operands[0], dtype).astype(np.uint64) | (
                self.value(operands[1], dtype).astype(np.uint64) << np.uint64(32)
            )
            picks = int(operands[2].rstrip("U"), 0)
            assert picks & 0x8888 == 0, picks
            result = np.zeros(LANES, np.uint64)
            for i in range(4):
                byte = both >> np.uint64(8 * (picks >> (4 * i) & 7)) & np.uint64(0xFF)
                result |= byte << np.uint64(8 * i)
            return result
        raise NotImplementedError(".".join(opcode))


def launch(
    text: str, shared_bytes: int, grid: tuple[int, int], arguments: Sequence[Any], seed: int = 0
) -> None:
    """Run a kernel over a grid; arguments are NumPy arrays, which it changes in place, and ints.

    Raises:
        Fault: see the module.
    """
    program = Program(text)
    arrays = [one for one in arguments if isinstance(one, np.ndarray)]
    memory = Memory([array.nbytes for array in arrays])
    starts = iter(memory.starts)
    values = []
    for one in arguments:
        if isinstance(one, np.ndarray):
            values.append(next(starts))
            memory.bytes[values[-1] : values[-1] + one.nbytes] = (
                np.ascontiguousarray(one).reshape(-1).view(np.uint8)
            )
        else:
            values.append(one)
    # Triton adds two scratch pointers of its own.
    parameters = dict(zip((name for _, name in program.parameters), [*values, 0, 0], strict=True))
    rng = np.random.default_rng(seed)
    owner = np.full(len(memory.bytes), -1, np.int32)
    for number in rng.permutation(grid[0] * grid[1]).tolist():
        shared = Shared(shared_bytes)
        stored: list[NDArray] = []
        warps = []
        for warp in range(program.threads // LANES):
            one = Warp(program, warp, (number % grid[0], number // grid[0]), parameters)
            one.stored = stored
            warps.append(one.run(shared, memory))
        while True:
            ended = [next(warps[i], "end") == "end" for i in rng.permutation(len(warps))]
            shared.barrier()
            if any(ended):
                break
        if not all(ended):
            raise Fault("some warps miss a barrier")
        places = np.unique(np.concatenate(stored))
        if ((owner[places] >= 0) & (owner[places] != number)).any():
            raise Fault("two programs store to the same byte")
        owner[places] = number
    for array, start in zip(arrays, memory.starts, strict=True):
        array[...] = (
            memory.bytes[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        )
