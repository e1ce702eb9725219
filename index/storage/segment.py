"""Segments: an immutable run of blocks as one .safetensors file, its arrays aligned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import CorruptError, InputError
from ...core.files import write_aside
from ...core.vectors import offsets
from ...kernels.score.types import Block
from .files import read_plain_file
from .manifest import FORMAT_VERSION, IndexManifest, SegmentManifest

if TYPE_CHECKING:
    from ...kernels.score.columns import Columns

# Tensors start on this boundary of the file, so that they can be read with aligned loads.
ALIGNMENT = 64
DTYPES: dict[str, np.dtype[Any]] = {
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
}
FIELD_DTYPES: dict[str, np.dtype[Any]] = {
    "block_term_indptr": DTYPES["I64"],
    "indptr": DTYPES["I64"],
    "block_documents": DTYPES["I32"],
    "terms": DTYPES["I32"],
    "locals": DTYPES["U16"],
    "impacts": DTYPES["U8"],
}


@dataclass(frozen=True, eq=False)
class Segment:
    """Blocks one after another.

    Attributes:
        block_term_indptr: int64 [B + 1], block b owns term rows
            ``block_term_indptr[b]:block_term_indptr[b + 1]``.
        indptr: int64 [T + 1], term row t owns postings ``indptr[t]:indptr[t + 1]``.
        block_documents: int32 [B], documents in each block.
        terms: int32 [T], strictly ascending inside a block.
        locals: uint16 [P], document number inside its block, strictly ascending inside a term row.
        impacts: uint8 [P], 1 to 255; larger ones are split, see :mod:`.wide`.
    """

    block_term_indptr: NDArray[np.int64]
    indptr: NDArray[np.int64]
    block_documents: NDArray[np.int32]
    terms: NDArray[np.int32]
    locals: NDArray[np.uint16]
    impacts: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.block_documents)

    @cached_property
    def columns(self) -> Columns:
        """The columns of frequent terms, made on first use; the CPU scorer alone reads them."""
        from ...kernels.score.columns import Columns  # numba, which other readers do not need

        return Columns.of(self)

    def block(self, number: int) -> Block:
        """Return one block (views)."""
        first, last = self.block_term_indptr[number], self.block_term_indptr[number + 1]
        return Block(
            self.terms[first:last],
            self.indptr[first : last + 1],
            self.locals,
            self.impacts,
            int(self.block_documents[number]),
        )

    @classmethod
    def from_blocks(cls, blocks: Sequence[Block]) -> Segment:
        """Join blocks, each with an ``indptr`` from 0."""
        starts = offsets([len(block.locals) for block in blocks])
        moved = [block.indptr[:-1] + start for block, start in zip(blocks, starts, strict=False)]
        return cls(
            offsets([len(block.terms) for block in blocks]),
            np.concatenate([*moved, starts[-1:]]),
            np.array([block.documents for block in blocks], dtype=np.int32),
            np.concatenate([block.terms for block in blocks]),
            np.concatenate([block.locals for block in blocks]),
            np.concatenate([block.impacts for block in blocks]),
        )

    def check(self, block_size: int, term_limit: int) -> None:
        """Check everything that the scoring kernels rely on.

        Args:
            block_size: documents of a full block.
            term_limit: terms are below it.

        Raises:
            InputError: naming the array that breaks its rule.
        """
        blocks, rows = len(self.block_documents), len(self.terms)
        if len(self.block_term_indptr) != blocks + 1 or len(self.indptr) != rows + 1:
            raise InputError("segment: block_term_indptr and indptr must have one entry more")
        if (np.diff(self.block_term_indptr) < 0).any() or (np.diff(self.indptr) < 0).any():
            raise InputError("segment: block_term_indptr and indptr must ascend")
        if (self.terms >= term_limit).any():
            raise InputError(f"segment: a term is above {term_limit - 1}")
        if (self.block_documents > block_size).any():
            raise InputError(f"segment: a block has more than {block_size} documents")
        if (self.block_documents[:-1] != block_size).any():
            raise InputError(
                f"segment: a block before the last one lacks documents of {block_size}"
            )
        if self.indptr[0] != 0 or self.indptr[-1] != len(self.locals):
            raise InputError("segment: indptr must run from 0 to the number of postings")
        if self.block_term_indptr[0] != 0 or self.block_term_indptr[-1] != len(self.terms):
            raise InputError(
                "segment: block_term_indptr must run from 0 to the number of term rows"
            )
        for number in range(len(self)):
            self.block(number).check()


def write_segment(
    path: Path, segment: Segment, first_ordinal: int, stop_ordinal: int, generation: int = 0
) -> SegmentManifest:
    """Write a segment completely or not at all; the same segment always gives the same bytes.

    Args:
        path: the file.
        segment: what it holds.
        first_ordinal, stop_ordinal, generation: see :class:`.manifest.SegmentManifest`.

    Raises:
        OSError: the disk is full or the directory cannot be written.
    """
    arrays = {field.name: getattr(segment, field.name) for field in fields(segment)}
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"csplade_segment": str(FORMAT_VERSION)}}
    offset = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    digest = hashlib.sha256()
    with write_aside(path, "wb") as file:
        for piece in (
            len(text).to_bytes(8, "little"),
            text,
            *(array.data for array in arrays.values()),
        ):
            digest.update(piece)
            file.write(piece)
    return SegmentManifest(
        file=path.name,
        first_ordinal=first_ordinal,
        documents=int(segment.block_documents.sum()),
        blocks=len(segment),
        postings=len(segment.locals),
        bytes=8 + len(text) + offset,
        sha256=digest.hexdigest(),
        stop_ordinal=stop_ordinal,
        generation=generation,
    )


def read_segment(directory: Path, manifest: SegmentManifest, index: IndexManifest) -> Segment:
    """Read a segment into memory and check its bytes and everything that the kernels rely on.

    Raises:
        CorruptError: missing, cut short, altered, or not what the manifest says.
    """
    path = directory / manifest.file
    remedy = "`csplade index verify --repair` derives it again from the document store"
    try:
        raw = read_plain_file(path)
    except FileNotFoundError:
        raise CorruptError(f"{path}: missing; {remedy}") from None
    if len(raw) != manifest.bytes:
        raise CorruptError(
            f"{path}: {len(raw)} bytes, the manifest says {manifest.bytes}; {remedy}"
        )
    if hashlib.sha256(raw).hexdigest() != manifest.sha256:
        raise CorruptError(f"{path}: altered, its SHA-256 differs from the manifest's; {remedy}")
    try:
        segment = _parse(memoryview(raw))
        segment.check(index.block_size, index.term_limit)
        held = (int(segment.block_documents.sum()), len(segment), len(segment.locals))
        if held != (manifest.documents, manifest.blocks, manifest.postings):
            raise InputError(f"holds {held} documents, blocks and postings, not the manifest's")
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise CorruptError(f"{path}: is not a segment: {error}; {remedy}") from None
    return segment


def _parse(raw: memoryview) -> Segment:
    """Return the arrays of a segment file (views)."""
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(bytes(raw[8:start]))
    arrays: dict[str, Any] = {}
    for field in fields(Segment):
        entry = header[field.name]
        first, last = entry["data_offsets"]
        if DTYPES[entry["dtype"]] != FIELD_DTYPES[field.name]:
            raise InputError(f"{field.name} is {entry['dtype']}")
        if not 0 <= first <= last <= len(raw) - start:
            raise InputError(f"{field.name} lies outside the file")
        arrays[field.name] = np.frombuffer(
            raw[start + first : start + last], FIELD_DTYPES[field.name]
        )
    return Segment(**arrays)
