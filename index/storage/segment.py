"""Segments: an immutable run of blocks as one .safetensors file, its arrays aligned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import CorruptError, InputError
from ...core.files import write_aside
from ...core.vectors import offsets
from ...kernels.score.types import Block
from .documents import DocumentStore
from .manifest import FORMAT_VERSION, SegmentManifest

# Tensors start on this boundary of the file, so that they can be read with aligned loads.
ALIGNMENT = 64
DTYPES: dict[str, np.dtype[Any]] = {
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
}


@dataclass(frozen=True)
class Segment:
    """Blocks one after another.

    Attributes:
        block_term_indptr: int64 [B + 1], block b owns term rows
            ``block_term_indptr[b]:block_term_indptr[b + 1]``.
        indptr: int64 [T + 1], term row t owns postings ``indptr[t]:indptr[t + 1]``.
        block_documents: int32 [B], documents in each block.
        terms: int32 [T], strictly ascending inside a block.
        locals: uint16 [P], document number inside its block, strictly ascending inside a term row.
        impacts: uint8 [P], 1 to 255.
    """

    block_term_indptr: NDArray[np.int64]
    indptr: NDArray[np.int64]
    block_documents: NDArray[np.int32]
    terms: NDArray[np.int32]
    locals: NDArray[np.uint16]
    impacts: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.block_documents)

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

    def check(self) -> None:
        """Check the invariants of every block.

        Raises:
            InputError: naming the array that breaks its rule.
        """
        if self.indptr[0] != 0 or self.indptr[-1] != len(self.locals):
            raise InputError("segment: indptr must run from 0 to the number of postings")
        if self.block_term_indptr[0] != 0 or self.block_term_indptr[-1] != len(self.terms):
            raise InputError(
                "segment: block_term_indptr must run from 0 to the number of term rows"
            )
        for number in range(len(self)):
            self.block(number).check()


def make_block(
    indptr: NDArray[np.int64], terms: NDArray[np.int32], impacts: NDArray[np.uint8]
) -> Block:
    """Return the block of these document vectors, transposed by one sort of packed integers."""
    documents = len(indptr) - 1
    keys = terms.astype(np.int64) << 24
    keys |= np.repeat(np.arange(documents, dtype=np.int64) << 8, np.diff(indptr))
    keys |= impacts
    keys.sort()
    sorted_terms = (keys >> 24).astype(np.int32)
    starts = np.flatnonzero(np.diff(sorted_terms, prepend=np.int32(-1)))
    return Block(
        sorted_terms[starts],
        np.append(starts, len(keys)).astype(np.int64),
        (keys >> 8).astype(np.uint16),
        keys.astype(np.uint8),
        documents,
    )


def derive_segment(
    store: DocumentStore,
    first: int,
    last: int,
    block_size: int,
    count: Callable[[int], None] = lambda _: None,
) -> Segment:
    """Return the segment of ordinals ``first`` to ``last - 1`` from their stored vectors.

    Args:
        store: of the shard.
        first, last: the ordinals.
        block_size: documents of a full block.
        count: called with the number of documents after each block.
    """
    blocks = []
    for start in range(first, last, block_size):
        stop = min(start + block_size, last)
        rows = store.vectors(start, stop)
        blocks.append(make_block(rows.indptr, rows.terms, rows.impacts))
        count(stop - start)
    return Segment.from_blocks(blocks)


def write_segment(path: Path, segment: Segment, first_ordinal: int) -> SegmentManifest:
    """Write a segment completely or not at all; the same segment always gives the same bytes.

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
    )


def read_segment(directory: Path, manifest: SegmentManifest) -> Segment:
    """Read a segment into memory and check size and checksum of the bytes that will be served.

    Raises:
        CorruptError: missing, cut short, altered, or not what the manifest says.
    """
    path = directory / manifest.file
    remedy = "`csplade index verify --repair` derives it again from the document store"
    try:
        raw = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        raise CorruptError(f"{path}: missing; {remedy}") from None
    if len(raw) != manifest.bytes:
        raise CorruptError(
            f"{path}: {len(raw)} bytes, the manifest says {manifest.bytes}; {remedy}"
        )
    if hashlib.sha256(raw.data).hexdigest() != manifest.sha256:
        raise CorruptError(f"{path}: altered, its SHA-256 differs from the manifest's; {remedy}")
    start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    header = json.loads(raw[8:start].tobytes())
    arrays: dict[str, Any] = {}
    for field in fields(Segment):
        entry = header[field.name]
        first, last = entry["data_offsets"]
        arrays[field.name] = np.frombuffer(
            raw.data[start + first : start + last], DTYPES[entry["dtype"]]
        )
    return Segment(**arrays)
