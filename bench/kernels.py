"""The kernels one by one: each op's median time, the floor that the device's own ceilings set, and
what people use instead.

The floor of an op is the fewest bytes it must move, or operations it must do, at the rate that a
copy or a matrix product reached in the same run. Inputs are random, the cache is emptied before
every timed run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..core.machine import hardware
from ..kernels.head.api import head
from ..kernels.head.reference import head_reference
from ..kernels.score.api import choose_backend, score_blocks
from ..kernels.score.layout import entries
from ..kernels.score.types import Postings, Queries
from ..kernels.select.api import select_blocks
from ..kernels.topk.api import topk
from . import distribution
from .synthetic_device import collection
from .timing import Ceilings, milliseconds, peak_bytes

OPS = ("head", "topk", "score", "select")
# Hidden width and vocabulary.
MODELS = {
    "SmolLM2-135M": (576, 49_152),
    "Llama-3.2-1B": (2048, 128_256),
    "Llama-3.1-8B": (4096, 128_256),
    "BERT-base": (768, 30_522),
}
HEADINGS = ["op", "case", "way", "ms", "floor ms", "over floor", "to csplade", "peak MiB"]


@dataclass(frozen=True)
class Sizes:
    """How much of everything: a GPU's share, or little enough for a test on a CPU.

    Attributes:
        models: name -> (hidden width, vocabulary).
        texts, tokens: texts of a batch, and the mean of their tokens.
        term_caps: terms kept by topk.
        documents, mean_terms, query_terms, queries, k: of scoring and selecting.
        repeats: timed runs.
    """

    models: dict[str, tuple[int, int]]
    texts: int
    tokens: int
    term_caps: tuple[int, ...]
    documents: int
    mean_terms: float
    query_terms: int
    queries: tuple[int, ...]
    k: int
    repeats: int


FULL = Sizes(MODELS, 32, 128, (64, 512), 1_000_000, 119, 43, (1, 16), 1000, 20)
SMALL = Sizes({"tiny": (32, 500)}, 3, 5, (8,), 200, 20, 6, (1, 2), 10, 2)


@dataclass(frozen=True)
class Timed:
    """One way to do one op.

    Attributes:
        op: "head", "topk", "score" or "select".
        case: shapes in words.
        way: whose.
        milliseconds: median.
        floor: milliseconds that the op cannot go under; of the op, so the same for all ways.
        over_floor: ``milliseconds / floor``.
        against: ``milliseconds`` over those of csplade's own way.
        peak_bytes: memory taken beyond the inputs; None without CUDA.
    """

    op: str
    case: str
    way: str
    milliseconds: float
    floor: float
    over_floor: float
    against: float
    peak_bytes: int | None


@dataclass(frozen=True)
class KernelReport:
    """What was run, and on what."""

    hardware: str
    copy_bytes_per_second: float
    product_operations_per_second: float
    timed: tuple[Timed, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def rows(self) -> list[list[str]]:
        """As rows under :data:`HEADINGS`."""
        return [
            [
                one.op,
                one.case,
                one.way,
                f"{one.milliseconds:.4f}",
                f"{one.floor:.4f}",
                f"{one.over_floor:.2f}",
                f"{one.against:.2f}",
                "-" if one.peak_bytes is None else f"{one.peak_bytes / 2**20:.1f}",
            ]
            for one in self.timed
        ]

    def notes(self) -> list[str]:
        """What the table needs to be read."""
        return [
            self.hardware,
            f"ceilings of this run: copy {self.copy_bytes_per_second / 1e12:.3f} TB/s read and "
            "written, "
            f"bf16 product {self.product_operations_per_second / 1e12:.1f} TFLOP/s; medians",
        ]


@dataclass(frozen=True)
class _Case:
    """An op on some inputs; the first way is csplade's own. ``floor`` in milliseconds."""

    op: str
    name: str
    floor: float
    ways: dict[str, Callable[[], Any]]


def run(
    device: str,
    *,
    ops: Sequence[str] = OPS,
    sizes: Sizes | None = None,
    progress: Callable[[str], None] = lambda case: None,
) -> KernelReport:
    """Time ops on a device.

    Args:
        device: "cuda", "cuda:1" ... or "cpu".
        ops: which.
        sizes: by default :data:`FULL` on a GPU and :data:`SMALL` elsewhere.
        progress: called with each case as it begins.
    """
    place = torch.device(device)
    sizes = sizes or (FULL if place.type == "cuda" else SMALL)
    torch.manual_seed(7)
    ceilings = Ceilings.measure(place)
    makers = {
        "head": _head_cases,
        "topk": _topk_cases,
        "score": _score_cases,
        "select": _select_cases,
    }
    timed: list[Timed] = []
    for op in ops:
        for case in makers[op](place, sizes, ceilings):
            progress(f"{case.op} {case.name}")
            timed += _time(case, place, sizes.repeats)
    return KernelReport(hardware(place), ceilings.copy, ceilings.product, tuple(timed))


@torch.inference_mode()
def _time(case: _Case, device: torch.device, repeats: int) -> Iterator[Timed]:
    own = 0.0
    for way, work in case.ways.items():
        spent = milliseconds(work, device, repeats=repeats)
        own = own or spent
        peak = peak_bytes(work, device)
        yield Timed(
            case.op, case.name, way, spent, case.floor, spent / case.floor, spent / own, peak
        )


def _head_cases(device: torch.device, sizes: Sizes, ceilings: Ceilings) -> Iterator[_Case]:
    for name, (width, vocabulary) in sizes.models.items():
        lengths = torch.randint(sizes.tokens // 2, sizes.tokens * 3 // 2 + 1, (sizes.texts,))
        offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        tokens = int(offsets[-1])
        hidden = torch.randn(tokens, width, device=device).to(torch.bfloat16)
        weight = (torch.randn(vocabulary, width, device=device) / width**0.5).to(torch.bfloat16)
        logits = torch.empty(tokens, vocabulary, dtype=torch.bfloat16, device=device)
        yield _Case(
            "head",
            f"{name}: {tokens} tokens of {sizes.texts} texts x {width} x {vocabulary}, bf16",
            ceilings.product_ms(2 * tokens * width * vocabulary),
            {
                "csplade": partial(head, hidden, weight, offsets),
                "the product alone": partial(torch.mm, hidden, weight.T, out=logits),
                "plain torch": partial(head_reference, hidden, weight, offsets),
            },
        )


def _topk_cases(device: torch.device, sizes: Sizes, ceilings: Ceilings) -> Iterator[_Case]:
    for name, (_, vocabulary) in sizes.models.items():
        # What the head gives: zero for most terms.
        weights = torch.randn(sizes.texts, vocabulary, device=device).sub_(1.5).relu_().log1p_()
        for cap in sizes.term_caps:
            yield _Case(
                "topk",
                f"{name}: {cap} of {vocabulary}, {sizes.texts} rows",
                ceilings.copy_ms(weights.nbytes + sizes.texts * cap * 8),
                {
                    "csplade": partial(topk, weights, cap),
                    "torch.topk (any tie)": partial(torch.topk, weights, cap),
                },
            )


def _inputs(device: torch.device, sizes: Sizes) -> tuple[Postings, dict[int, Queries]]:
    postings = collection(sizes.documents, sizes.mean_terms, distribution.VOCABULARY, 7, device)
    return postings, {
        count: Queries.from_impacts(distribution.queries(count, sizes.query_terms, 8), device)
        for count in sizes.queries
    }


def _score_cases(device: torch.device, sizes: Sizes, ceilings: Ceilings) -> Iterator[_Case]:
    postings, batches = _inputs(device, sizes)
    by_term = _ByTerm.of(postings, distribution.VOCABULARY)
    matrix = by_term.matrix()
    fastest = choose_backend(postings)
    for count, queries in batches.items():
        read = int(score_blocks(queries, postings).postings.sum())
        ways: dict[str, Callable[[], Any]] = {
            f"csplade ({fastest})": partial(score_blocks, queries, postings)
        }
        if fastest == "gluon":
            ways["csplade, plain global atomics"] = partial(
                score_blocks, queries, postings, backend="triton"
            )
        rows = list(_rows(queries))
        ways["index_add_ per term"] = partial(by_term.index_add, [(t.tolist(), w) for t, w in rows])
        dense = torch.zeros(distribution.VOCABULARY, count, device=device)
        for i, (terms, impacts) in enumerate(rows):
            dense[terms, i] = impacts.float()
        ways["torch.sparse.mm, float32 CSR"] = partial(torch.sparse.mm, matrix, dense)
        yield _Case(
            "score",
            f"{count} queries of {sizes.query_terms} terms x {sizes.documents:,} documents, "
            f"{read:,} postings",
            ceilings.copy_ms(3 * read + 4 * count * sizes.documents),
            ways,
        )


def _select_cases(device: torch.device, sizes: Sizes, ceilings: Ceilings) -> Iterator[_Case]:
    postings, batches = _inputs(device, sizes)
    for count, queries in batches.items():
        scores = score_blocks(queries, postings)
        flat = scores.scores.view(count, -1)
        k = min(sizes.k, flat.shape[1])
        yield _Case(
            "select",
            f"{k} of {sizes.documents:,} scores, {count} queries",
            ceilings.copy_ms(4 * count * sizes.documents),
            {
                # The scorer has left each tile's best score, so that not all scores are read again.
                "csplade (with the scorer's tiles)": partial(select_blocks, scores, postings, k),
                "torch.topk (any tie)": partial(torch.topk, flat, k),
            },
        )


def _rows(queries: Queries) -> Iterator[tuple[Tensor, Tensor]]:
    edges = queries.indptr.tolist()
    for first, last in pairwise(edges):
        yield queries.terms[first:last].long(), queries.impacts[first:last]


@dataclass(frozen=True)
class _ByTerm:
    """All postings by term: offsets, document numbers int64 and impacts int32, as scripts keep
    them.
    """

    indptr: list[int]
    documents: Tensor
    impacts: Tensor
    count: int

    @classmethod
    def of(cls, postings: Postings, vocabulary: int) -> _ByTerm:
        rows, documents, impacts = entries(postings)
        names = torch.argsort(postings.rows, stable=True)[-len(postings.starts) :]
        terms, order = names[rows].sort(stable=True)
        counts = torch.bincount(terms, minlength=vocabulary)
        return cls(
            torch.nn.functional.pad(counts.cumsum(0), (1, 0)).tolist(),
            documents[order],
            impacts[order].to(torch.int32),
            postings.blocks * postings.block_size,
        )

    def index_add(self, rows: Sequence[tuple[list[int], Tensor]]) -> Tensor:
        """int32 [n, documents]."""
        scores = torch.zeros(len(rows), self.count, dtype=torch.int32, device=self.documents.device)
        for row, (terms, impacts) in zip(scores, rows, strict=True):
            for i, term in enumerate(terms):
                span = slice(self.indptr[term], self.indptr[term + 1])
                row.index_add_(0, self.documents[span], self.impacts[span] * impacts[i])
        return scores

    def matrix(self) -> Tensor:
        """float32 CSR [documents, vocabulary]."""
        counts = torch.tensor(self.indptr, device=self.documents.device).diff()
        terms = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        documents, order = self.documents.sort(stable=True)
        rows = torch.nn.functional.pad(
            torch.bincount(documents, minlength=self.count).cumsum(0), (1, 0)
        )
        shape = (self.count, len(counts))
        values = self.impacts[order].float()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
            return torch.sparse_csr_tensor(
                rows, terms[order], values, shape, check_invariants=False
            )
