"""The manifests: what an index is (index.json) and what a shard holds (shard.json)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import CorruptError, InputError
from ...core.fields import FieldKind, check_fields
from ...core.files import write_aside
from ...core.typed import load
from ...kernels.score.types import MAX_BLOCK_DOCUMENTS
from .files import read_plain_file, require_plain_name
from .wide import ONE_BYTE, highest_impact

FORMAT_VERSION = 2
INDEX_FILE = "index.json"
BUILDING_FILE = "building.json"
SHARD_FILE = "shard.json"
# Overlap with the float32 ranking below which rounding changes rankings too much.
ENOUGH_OVERLAP = 0.99


@dataclass(frozen=True)
class Fidelity:
    """How far the integer rankings of a sample agree with float32.

    Attributes:
        documents, queries: size of the sample.
        overlap: share of the ten best documents that the two rankings have in common.
        top_1: share of the queries whose best document is the same.
        rounded_up: share of the weights below half a step, which became impact 1.
        two_bytes: share of the weights whose impact is above 255 and takes two postings.
        impacts: distinct impacts in the sample.
    """

    documents: int
    queries: int
    overlap: float
    top_1: float
    rounded_up: float
    two_bytes: float
    impacts: int

    @property
    def enough(self) -> bool:
        """Whether the rankings agree well enough to need no warning."""
        return self.overlap >= ENOUGH_OVERLAP


@dataclass(frozen=True)
class SegmentManifest:
    """One segment file of a shard.

    It holds the rows of the store from ``first_ordinal`` to ``stop_ordinal - 1`` that were not
    deleted when it was made. Rows that were deleted later stay in the store as long as it does.

    Attributes:
        file: name in the shard's directory.
        first_ordinal: ordinal that it begins with.
        documents, blocks, postings, bytes: what it holds.
        sha256: hex digest of the file.
        stop_ordinal: ordinal after its last one.
        generation: rows that were deleted up to this generation are not in it; 0 for a build.
    """

    file: str
    first_ordinal: int
    documents: int
    blocks: int
    postings: int
    bytes: int
    sha256: str
    stop_ordinal: int
    generation: int


@dataclass(frozen=True)
class ShardManifest:
    """One shard at one generation.

    Attributes:
        shard: its number.
        generation: 1 after the build, one more after every later commit of the index.
        documents: in segments and tail, deleted ones included until they are removed.
        postings: in segments and tail.
        bytes: of all segment files.
        clipped: document impacts of the build that were reduced to the maximum.
        segments: the files, in ascending ordinals.
        sealed: rows of the store below this ordinal are in the files or deleted for good; the
            others are the tail.
        deleted: how many of the documents are deleted.
    """

    shard: int
    generation: int
    documents: int
    postings: int
    bytes: int
    clipped: int
    segments: tuple[SegmentManifest, ...]
    sealed: int
    deleted: int = 0

    def write(self, directory: Path, index_checksum: str) -> None:
        """Write ``shard.json`` of a shard that belongs to the index with this checksum."""
        write_checked(directory / SHARD_FILE, {"index": index_checksum, **asdict(self)})

    @classmethod
    def read(cls, directory: Path, shard: int, index_checksum: str) -> ShardManifest:
        """Read ``shard.json``.

        Raises:
            CorruptError: missing, torn, altered, or of another shard or index.
        """
        path = directory / SHARD_FILE
        content = read_checked(path)
        if content.pop("index", None) != index_checksum or content.get("shard") != shard:
            raise CorruptError(
                f"{path}: belongs to another shard or index; restore the right directory"
            )
        with fields_of(path):
            segments = tuple(_segment(one) for one in content["segments"])
            # The manifests of an index that was never written to lack what only writes change.
            content = {"sealed": content["documents"], **content, "segments": segments}
            manifest = load(cls, content)
        for one in segments:
            require_plain_name(one.file, path)
        return manifest


def _segment(content: dict[str, Any]) -> SegmentManifest:
    stop = content["first_ordinal"] + content["documents"]
    return load(SegmentManifest, {"stop_ordinal": stop, "generation": 0, **content})


@dataclass(frozen=True)
class IndexManifest:
    """What an index is; all but ``fields``, ``max_impact`` and ``shards`` never changes.

    Attributes:
        format_version: of the directory layout and the segments.
        encoder: {"fingerprint", "model", "manifest"} of the encoder, None for vectors made
            elsewhere.
        vocabulary_size: terms are 0 to vocabulary_size - 1.
        vocabulary: the string of each term where vectors came keyed by strings, else None.
        document_scale: weight of one document impact step; None until the first documents came.
        max_impact: largest document impact that was ever stored; scales of queries depend on it.
            The file has that of the build, the store of shard 0 that of all later writes.
        block_size: documents in a full block.
        segment_blocks: blocks in a full segment.
        shard_count: number of shards.
        query_modifier: "idf" if the weights of queries are multiplied by factors that follow from
            this collection's document frequencies, else "none".
        fidelity: what rounding costs on a sample; None while the index is built.
        fields: type of each declared field of the metadata; it may change later.
        checksum: SHA-256 of the above without ``fields``, by which the shards know their index.
        shards: one manifest each, of all shards or of those that are opened; empty while the index
            is built.
    """

    format_version: int
    encoder: dict[str, Any] | None
    vocabulary_size: int
    vocabulary: list[str] | None
    document_scale: float | None
    max_impact: int
    block_size: int
    segment_blocks: int
    shard_count: int
    query_modifier: str = "none"
    fidelity: Fidelity | None = None
    fields: dict[str, FieldKind] = field(default_factory=dict)
    checksum: str = ""
    shards: tuple[ShardManifest, ...] = ()

    @property
    def documents(self) -> int:
        """Documents in all shards, deleted ones included until they are removed."""
        return sum(shard.documents for shard in self.shards)

    @property
    def postings(self) -> int:
        """Postings in all shards."""
        return sum(shard.postings for shard in self.shards)

    @property
    def step(self) -> float:
        """Weight of one document impact step of a finished index."""
        assert self.document_scale is not None
        return self.document_scale

    @property
    def term_limit(self) -> int:
        """Terms of segments are below it: those of high bytes follow the vocabulary."""
        if highest_impact(self.vocabulary_size) > ONE_BYTE:
            return 2 * self.vocabulary_size
        return self.vocabulary_size

    @property
    def bytes(self) -> int:
        """Bytes of all segment files (the document stores come on top)."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def clipped(self) -> int:
        """Document impacts that were reduced to the maximum."""
        return sum(shard.clipped for shard in self.shards)

    @property
    def generation(self) -> int:
        """1 after the build, one more after every later commit."""
        return max((shard.generation for shard in self.shards), default=1)

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the encoder, None for vectors made elsewhere."""
        return None if self.encoder is None else self.encoder.get("fingerprint")

    def shard_directory(self, root: Path, shard: int) -> Path:
        """Return the directory of a shard.

        Raises:
            CorruptError: a link: what it leads to is not part of this index.
        """
        directory = root / f"shard-{shard:04d}"
        if directory.is_symlink():
            raise CorruptError(f"{directory}: is a link; put the shard itself there")
        return directory

    def write(self, path: Path) -> str:
        """Write everything but ``checksum`` and ``shards``; returns the checksum."""
        content = asdict(self)
        del content["checksum"], content["shards"]
        write_checked(path, content)
        return _identity(content)

    @classmethod
    def read(cls, path: Path) -> IndexManifest:
        """Read a manifest file, with ``shards`` left empty.

        Raises:
            CorruptError: missing, torn, altered, or of another format version.
        """
        content = read_checked(path)
        with fields_of(path):
            content["checksum"] = _identity(content)
            if content.get("fidelity") is not None:
                content["fidelity"] = load(Fidelity, content["fidelity"])
            manifest = load(cls, content)
            for name in ("vocabulary_size", "block_size", "segment_blocks", "shard_count"):
                if not 1 <= getattr(manifest, name) < 2**31:
                    raise ValueError(f"{name} is out of range")
            if manifest.block_size > MAX_BLOCK_DOCUMENTS:
                raise ValueError("block_size is out of range")
            check_fields(manifest.fields)
            return manifest

    @classmethod
    def open(cls, root: Path | str, shards: Sequence[int] | None = None) -> IndexManifest:
        """Read the manifest of a finished index with those of all or some of its shards.

        Raises:
            CorruptError: no index, an unfinished one, one of another format version, or a broken
                manifest.
            InputError: a shard that the index does not have.
        """
        root = Path(root)
        if not (root / INDEX_FILE).exists():
            if (root / BUILDING_FILE).exists():
                raise CorruptError(
                    f"{root}: the build of this index is not finished; run `csplade index build "
                    "--resume`"
                )
            raise CorruptError(
                f"{root}: no index here, {INDEX_FILE} is missing; run `csplade index build`"
            )
        manifest = cls.read(root / INDEX_FILE)
        for shard in shards or ():
            if not 0 <= shard < manifest.shard_count:
                raise InputError(f"shard is {shard}, {root} has {manifest.shard_count} (from 0)")
        found = tuple(
            ShardManifest.read(manifest.shard_directory(root, shard), shard, manifest.checksum)
            for shard in (range(manifest.shard_count) if shards is None else shards)
        )
        return cls(**vars(manifest) | {"shards": found})


def write_checked(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with the SHA-256 of its content inside."""
    with write_aside(path) as file:
        checked = {**content, "checksum": _checksum(content)}
        json.dump(checked, file, indent=1, ensure_ascii=False)
        file.write("\n")


def read_checked(path: Path) -> dict[str, Any]:
    """Read what ``write_checked`` wrote.

    Raises:
        CorruptError: missing, torn, altered, or of another format version.
    """
    try:
        content: dict[str, Any] = json.loads(read_plain_file(path))
        checksum = content.pop("checksum")
    except FileNotFoundError:
        raise CorruptError(f"{path}: missing; restore the file or build the index again") from None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise CorruptError(
            f"{path}: torn, it is not a complete manifest; build the index again"
        ) from None
    if content.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        raise CorruptError(
            f"{path}: format version {content['format_version']}, this program reads "
            f"{FORMAT_VERSION}; "
            "build the index again with `csplade index build`"
        )
    if _checksum(content) != checksum:
        raise CorruptError(f"{path}: altered, its checksum differs; build the index again")
    return content


@contextmanager
def fields_of(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the fields of a manifest into one line that names it."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(
            f"{path}: has wrong fields: {error!r:.80}; build the index again"
        ) from None


def _identity(content: dict[str, Any]) -> str:
    """Return the checksum of what never changes of an index's manifest."""
    return _checksum({name: value for name, value in content.items() if name != "fields"})


def _checksum(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
