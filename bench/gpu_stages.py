"""Measure one part of the GPU path after another; every row is yielded when it is measured.

The stages of :mod:`.gpu_check`, which runs each in a process of its own. They need torch, Triton,
NumPy and, for the network, transformers. A rehearsal runs them on the CPU at tiny sizes: it shows
that they work and measures nothing of a GPU.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..core.machine import hardware
from ..kernels.head import triton as head_triton
from ..kernels.head.api import head
from ..kernels.runtime import aot
from ..kernels.runtime.launch import capability, triton_support
from ..kernels.score.api import BACKENDS, score_blocks
from ..kernels.score.search import search_blocks
from ..kernels.score.types import Postings, Queries
from ..kernels.select.api import select_blocks
from ..kernels.topk.api import topk
from . import device as device_bench
from . import distribution
from . import kernels as kernel_bench
from .synthetic_device import collection
from .timing import Ceilings, event_milliseconds, graph_of, milliseconds

Row = dict[str, Any]

# The headline collection, and one of an encoder with a large vocabulary.
PASSAGES = {"documents": 8_800_000, "mean_terms": 119, "query_terms": 43, "k": 1000}
LARGE_VOCABULARY = {
    "documents": 1_000_000, "mean_terms": 300, "query_terms": 43, "k": 1000, "vocabulary": 128_256,
}  # fmt: skip
TINY = {"documents": 300, "mean_terms": 20, "query_terms": 6, "k": 10}
TINY_TIMES: dict[str, Any] = {"rounds": 2, "batches": (1, 4)}
# Tiles of the head beside each other: the wide one is shipped for many tokens.
TILES = {
    "128x128, 4 warps, 3 stages": head_triton.Tile(128, 128, 64, 4, 3),
    "128x256, 8 warps, 3 stages": head_triton.Tile(128, 256, 64, 8, 3),
    "128x256, 8 warps, 4 stages": head_triton.Tile(128, 256, 64, 8, 4),
}
# Networks by name: hidden width, layers, width of the feed-forward part.
NETWORKS = {"1B": (2048, 16, 8192), "8B": (4096, 32, 14_336)}
TINY_NETWORKS = {"tiny": (64, 2, 128)}
# Batches of (texts, tokens of each): queries alone and in batches, and passages.
SHAPES = ((1, 12), (8, 12), (64, 12), (64, 128))


def environment(rehearse: bool) -> Iterator[Row]:
    """Tell the card, the versions and the ceilings of a copy and a matrix product."""
    place = _place(rehearse)
    support = triton_support(place)
    yield {"what": "hardware", "value": hardware(place)}
    yield {"what": "kernels", "value": "yes" if support else support.reason}
    ceilings = Ceilings.measure(place)
    yield {"what": "copy TB/s, read and written", "value": ceilings.copy / 1e12}
    yield {"what": "bf16 product TFLOP/s", "value": ceilings.product / 1e12}


def machine_code(rehearse: bool) -> Iterator[Row]:
    """Compile every kernel for this GPU, ahead of its launch."""
    found = capability(_place(rehearse)) or 90
    chosen = [case for case in aot.cases() if not rehearse or case.name.startswith("select/expand")]
    for one in aot.compile_all(chosen, [found]):
        yield dict(zip(aot.HEADINGS, one.row(), strict=True)) | {"passed": one.ok}


def sanitizer(rehearse: bool) -> Iterator[Row]:
    """Run compute-sanitizer over a search, the head, the scorer and the selection."""
    for tool, op in (
        ("memcheck", "search"),
        ("memcheck", "head"),
        ("racecheck", "score"),
        ("racecheck", "select"),
    ):
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
        yield {"tool": tool, "op": op, **_under(command, op, rehearse)}


def profile(rehearse: bool) -> Iterator[Row]:
    """Run Nsight Compute over the hot kernels; its tables go to the log."""
    for op, kernel in (
        ("score", "score_kernel"),
        ("select", "pick_kernel"),
        ("topk", "_histogram_kernel"),
        ("head", "_pool_kernel"),
    ):
        command = ["ncu", "--clock-control", "none", "-k", kernel, "-c", "2", "--set", "full"]
        yield {"op": op, "kernel": kernel, **_under(command, op, rehearse)}


def heads(rehearse: bool) -> Iterator[Row]:
    """Time the tiles of the head beside the matrix product alone."""
    place = _place(rehearse)
    for name, (width, terms) in (
        kernel_bench.MODELS.items() if not rehearse else [("tiny", (64, 300))]
    ):
        for tokens in (12, 1024, 8192) if not rehearse else (12,):
            hidden = torch.randn(tokens, width, device=place).to(torch.bfloat16)
            weight = (torch.randn(terms, width, device=place) / width**0.5).to(torch.bfloat16)
            offsets = torch.tensor([0, tokens], device=place)
            logits = torch.empty(tokens, terms, dtype=torch.bfloat16, device=place)
            alone = milliseconds(partial(torch.mm, hidden, weight.T, out=logits), place)
            shared = {"case": f"{name}: {tokens} tokens", "product alone ms": alone}
            spent = milliseconds(partial(head, hidden, weight, offsets), place)
            yield {**shared, "tile": "shipped", "ms": spent, "over product": spent / alone}
            for tile_name, tile in TILES.items():
                if rehearse or tokens < 1024:
                    continue
                work = partial(_pool, hidden, weight, tile)
                spent = milliseconds(work, place)
                yield {**shared, "tile": tile_name, "ms": spent, "over product": spent / alone}


def topks(rehearse: bool) -> Iterator[Row]:
    """Time topk on sparse and on dense rows beside reading them once."""
    place = _place(rehearse)
    ceilings = Ceilings.measure(place)
    rows, terms = (2, 900) if rehearse else (32, 128_256)
    for positive in (30,) if rehearse else (300, 8_600, terms):
        weights = torch.rand(rows, terms, device=place)
        weights *= torch.rand(rows, terms, device=place) < positive / terms
        spent = milliseconds(partial(topk, weights, 300), place)
        floor = ceilings.copy_ms(weights.nbytes)
        other = milliseconds(partial(torch.topk, weights, 300), place)
        yield {
            "case": f"{rows} x {terms:,}, {positive:,} positive",
            "ms": spent,
            "read once ms": floor,
            "over read": spent / floor,
            "torch.topk ms": other,
        }


def scores(rehearse: bool) -> Iterator[Row]:
    """Time the scorers and the selection on the headline collection."""
    place, sizes = _place(rehearse), TINY if rehearse else PASSAGES
    postings, ceilings = _passages(place, sizes), Ceilings.measure(place)
    for count in (1, 64):
        batch = distribution.queries(count, int(sizes["query_terms"]), 8)
        queries = Queries.from_impacts(batch, place)
        for backend in [name for name in BACKENDS if BACKENDS[name].supports(postings)]:
            if backend == "torch" and not rehearse:
                continue
            group, k = queries.between(0, min(count, 16)), int(sizes["k"])
            work = partial(score_blocks, group, postings, backend=backend)
            spent = milliseconds(work, place)
            fewer = milliseconds(partial(work, k=k), place)
            found = work()
            read = int(found.postings.sum())
            floor = ceilings.copy_ms(3 * read)
            chosen = milliseconds(partial(select_blocks, found, postings, k), place)
            yield {
                "queries": len(group),
                "backend": backend,
                "score ms": spent,
                "only tiles that can matter ms": fewer,
                "postings": read,
                "postings at copy speed ms": floor,
                "over floor": spent / floor,
                "select ms": chosen,
            }


def networks(rehearse: bool) -> Iterator[Row]:
    """Time query encoding with random weights, launched one by one and as a CUDA graph."""
    place, ceilings = _place(rehearse), Ceilings.measure(_place(rehearse))
    for name, (width, layers, inner) in (TINY_NETWORKS if rehearse else NETWORKS).items():
        terms = 300 if rehearse else 128_256
        encode, weight_bytes = _random_network(place, width, layers, inner, terms)
        for texts, tokens in SHAPES[:1] if rehearse else SHAPES:
            ids = torch.randint(terms, (texts, tokens), device=place)
            offsets = torch.arange(texts + 1, device=place) * tokens
            work = partial(encode, ids, offsets)
            eager = milliseconds(work, place, flush=False)
            replay = graph_of(work, place)
            yield {
                "network": name,
                "texts": texts,
                "tokens": tokens,
                "eager ms": eager,
                "graph ms": replay and event_milliseconds(replay, place, repeats=20),
                "weights at copy speed ms": ceilings.copy_ms(weight_bytes),
            }


def passages(rehearse: bool) -> Iterator[Row]:
    """Search 8.8 million documents, answers checked."""
    yield from _search(PASSAGES, rehearse)


def large_vocabulary(rehearse: bool) -> Iterator[Row]:
    """Search a million documents of 300 terms out of 128,256, answers checked."""
    yield from _search(LARGE_VOCABULARY, rehearse)


def baselines(rehearse: bool) -> Iterator[Row]:
    """Time scoring and selecting beside what people use, at a million documents."""
    for op in ("score", "select"):
        report = kernel_bench.run("cpu" if rehearse else "cuda", ops=[op])
        yield from (asdict(one) for one in report.timed)


def exercise(op: str, rehearse: bool) -> None:
    """Run one op a few times at a small size, for a profiler or a sanitizer to watch."""
    place = _place(rehearse)
    if op == "head":
        hidden, weight = torch.randn(300, 256, device=place), torch.randn(2000, 256, device=place)
        for _ in range(3):
            head(hidden.to(torch.bfloat16), weight.to(torch.bfloat16), torch.tensor([0, 99, 300]))
        return
    if op == "topk":
        for _ in range(3):
            topk(torch.rand(8, 30_000, device=place), 300, scale=0.01)
        return
    postings = collection(300 if rehearse else 60_000, 30, distribution.VOCABULARY, 7, place)
    queries = Queries.from_impacts(distribution.queries(2, 20, 8), place)
    for _ in range(3):
        if op == "search":
            search_blocks(queries, postings, 100)
        else:
            found = score_blocks(queries, postings)
            if op == "select":
                select_blocks(found, postings, 100)


def _search(sizes: dict[str, Any], rehearse: bool) -> Iterator[Row]:
    sizes = sizes | TINY | TINY_TIMES if rehearse else sizes
    steps = device_bench.steps(**sizes, device="cpu" if rehearse else "cuda")
    yield from (asdict(one) for one in steps)


def _passages(place: torch.device, sizes: dict[str, int]) -> Postings:
    return collection(sizes["documents"], sizes["mean_terms"], distribution.VOCABULARY, 7, place)


def _pool(hidden: Tensor, weight: Tensor, tile: head_triton.Tile) -> None:
    owners = torch.zeros(len(hidden), dtype=torch.int32, device=hidden.device)
    best = torch.zeros(1, len(weight), dtype=torch.int32, device=hidden.device)
    head_triton.pool(hidden, weight, None, owners, best, 1.0, 0.0, tile=tile)


def _random_network(
    place: torch.device, width: int, layers: int, inner: int, terms: int
) -> tuple[Callable[[Tensor, Tensor], Any], int]:
    """Return an encoder of that shape with random weights, and the bytes of its weights."""
    from transformers import LlamaConfig, LlamaModel

    heads = max(width // 64, 1)
    config = LlamaConfig(
        vocab_size=terms, hidden_size=width, num_hidden_layers=layers, intermediate_size=inner,
        num_attention_heads=heads, num_key_value_heads=max(heads // 4, 1), head_dim=64,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(place):
            model = LlamaModel(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    weight = model.embed_tokens.weight.detach()

    @torch.inference_mode()
    def encode(ids: Tensor, offsets: Tensor) -> Any:
        hidden = model(ids, use_cache=False).last_hidden_state.flatten(0, 1)
        return topk(head(hidden, weight, offsets), 64, scale=0.02)

    return encode, sum(parameter.nbytes for parameter in model.parameters())


def _under(command: list[str], op: str, rehearse: bool) -> Row:
    """Run an op below a tool; its output is that of this process."""
    if rehearse:
        command = []
    elif shutil.which(command[0]) is None:
        return {"result": f"{command[0]} is not installed"}
    call = f"from csplade.bench.gpu_stages import exercise; exercise({op!r}, {rehearse})"
    done = subprocess.run([*command, sys.executable, "-c", call], env=os.environ, check=False)
    passed = done.returncode == 0
    return {"result": "ok" if passed else f"exit code {done.returncode}", "passed": passed}


def _place(rehearse: bool) -> torch.device:
    return torch.device("cpu" if rehearse else "cuda")
