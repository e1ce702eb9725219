"""The Common Index File Format (CIFF): postings and document ids, exchanged with other engines.

Lucene (Anserini), PISA, Terrier and others read and write it. Impacts stand where a text index has
term frequencies. Texts and metadata are not part of the format.
Source: Lin et al., "Supporting Interoperability Between Open-Source Search Engines with the Common
Index File Format", SIGIR 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from ..core.document import Document, parse_id
from ..core.errors import InputError
from ..core.files import write_aside
from ..core.lines import Line, open_decompressed
from ..core.vectors import ImpactBatch, offsets
from ..v1 import ciff_pb2 as pb
from .vector_line import VectorLine

SUFFIX = ".ciff"
VERSION = 1
MAX_MESSAGE_BYTES = 2**31 - 1  # of protobuf

M = TypeVar("M", bound=Message)


def read_ciff(path: Path) -> Iterator[VectorLine]:
    """Yield the documents of a CIFF file with their vectors, in order of their numbers.

    The file is held in memory by postings, 12 bytes each. Terms are strings; weights are term
    frequencies (impacts). Documents without a term are yielded too.

    Args:
        path: the file, plain or ``.gz`` or ``.zst``.

    Raises:
        InputError: the file is not CIFF, is incomplete, or breaks its own counts; a document id has
            white space or is there twice; a frequency is not above 0.
    """
    with open_decompressed(path) as file:
        header = _read(path, file, pb.Header)
        if header.version != VERSION:
            raise InputError(f"{path}: CIFF version {header.version}, readable is {VERSION}")
        terms, lengths, parts = [], [], []
        for _ in range(header.num_postings_lists):
            postings = _read(path, file, pb.PostingsList)
            parts.append(_postings(path, postings, header.num_doc_records))
            terms.append(postings.term)
            lengths.append(len(postings.postings))
        records = [_read(path, file, pb.DocRecord) for _ in range(header.num_doc_records)]
        if file.read(1):
            raise InputError(f"{path}: goes on after the {len(records)} documents of its header")
    if len(set(terms)) < len(terms):
        raise InputError(f"{path}: has two postings lists of one term")
    ids = _document_ids(path, records)
    documents, weights = (
        np.concatenate([np.empty(0, np.int32), *(part[i] for part in parts)]) for i in range(2)
    )
    names = np.repeat(np.arange(len(terms), dtype=np.int32), lengths)
    order = np.argsort(documents, kind="stable")
    ends = offsets(np.bincount(documents, minlength=len(ids)))
    for number, identity in enumerate(ids):
        rows = order[ends[number] : ends[number + 1]]
        yield VectorLine(
            Line(path, number + 1, ""),
            Document(identity, ""),
            [terms[name] for name in names[rows].tolist()],
            weights[rows].astype(np.float32),
            has_ids=False,
        )


def write_ciff(
    path: Path,
    name: Callable[[int], str],
    ids: Sequence[str],
    impacts: ImpactBatch,
    description: str,
) -> None:
    """Write document vectors as a CIFF file, whole or not at all.

    Args:
        path: the file to write.
        name: gives the string of a term of ``impacts``; no two have the same.
        ids: id of each row of ``impacts``.
        impacts: one row a document.
        description: of the index, for people.
    """
    lengths = np.diff(offsets(impacts.impacts)[impacts.indptr])
    rows = np.repeat(np.arange(len(ids), dtype=np.int32), np.diff(impacts.indptr))
    order = np.argsort(impacts.terms, kind="stable")  # by term, then by document
    ends = offsets(np.bincount(impacts.terms))
    present = {name(term): term for term in np.unique(impacts.terms).tolist()}
    total = int(lengths.sum())
    header = pb.Header(
        version=VERSION,
        num_postings_lists=len(present),
        num_doc_records=len(ids),
        total_postings_lists=len(present),
        total_docs=len(ids),
        total_terms_in_collection=total,
        average_doclength=total / max(len(ids), 1),
        description=description,
    )
    with write_aside(path, "wb") as file:
        _write(file, header)
        for word in sorted(present, key=str.encode):  # as Lucene orders them
            term = present[word]
            places = order[ends[term] : ends[term + 1]]
            gaps = np.diff(rows[places], prepend=0).tolist()
            values = impacts.impacts[places].tolist()
            postings = [
                pb.Posting(docid=gap, tf=value) for gap, value in zip(gaps, values, strict=True)
            ]
            _write(
                file,
                pb.PostingsList(term=word, df=len(postings), cf=sum(values), postings=postings),
            )
        for number, (identity, length) in enumerate(zip(ids, lengths.tolist(), strict=True)):
            _write(file, pb.DocRecord(docid=number, collection_docid=identity, doclength=length))


def _postings(
    path: Path, postings: pb.PostingsList, documents: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return document numbers and weights of one term."""
    count = len(postings.postings)
    gaps = np.fromiter((one.docid for one in postings.postings), np.int64, count)
    weights = np.fromiter((one.tf for one in postings.postings), np.int32, count)
    numbers = np.cumsum(gaps)
    if count != postings.df:
        problem = f"has {count} postings, its document frequency is {postings.df}"
    elif count and (numbers[0] < 0 or numbers[-1] >= documents or (gaps[1:] <= 0).any()):
        problem = f"has document numbers that do not ascend below {documents}"
    elif (weights <= 0).any():
        problem = "has a term frequency that is not above 0"
    else:
        return numbers.astype(np.int32), weights
    raise InputError(f"{path}: the postings list of term {postings.term!r:.60} {problem}")


def _document_ids(path: Path, records: list[pb.DocRecord]) -> list[str]:
    """Return the ids in order of the documents' numbers, which are 0 to n - 1, each once."""
    ids: list[str] = [""] * len(records)
    for record in records:
        if not 0 <= record.docid < len(records) or ids[record.docid]:
            raise InputError(f"{path}: document number {record.docid} is out of range or repeated")
        try:
            ids[record.docid] = parse_id(record.collection_docid, "document id")
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    if len(set(ids)) < len(ids):
        raise InputError(f"{path}: has two documents of one id")
    return ids


def _read(path: Path, file: BufferedIOBase, kind: type[M]) -> M:
    """Read one message with its length before it."""
    length = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 28:
            raise InputError(f"{path}: is incomplete, or not CIFF: a {kind.__name__} is missing")
        length |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            break
        shift += 7
    data = file.read(min(length, MAX_MESSAGE_BYTES))
    try:
        if len(data) < length:
            raise DecodeError("it is longer than the file or than 2 GiB")
        return kind.FromString(data)
    except DecodeError as error:
        raise InputError(
            f"{path}: is incomplete, or not CIFF: {kind.__name__} is broken: {error}"
        ) from None


def _write(file: IO[bytes], message: Message) -> None:
    """Write one message with its length before it."""
    length = message.ByteSize()
    head = bytearray()
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    file.write(bytes(head) + message.SerializeToString())
