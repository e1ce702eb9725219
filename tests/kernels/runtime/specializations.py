"""Warm the kernels up, then vary everything that requests vary; print what was compiled when."""

import json
from types import SimpleNamespace

import numpy as np
import torch
from recorder import Recorder, force_triton

from csplade.bench.synthetic_device import collection
from csplade.core.vectors import ImpactBatch
from csplade.index.read.device import DeviceSearcher
from csplade.index.read.placement import Placement
from csplade.index.storage.blocks import make_block
from csplade.index.storage.documents import Rows
from csplade.index.storage.segment import Segment
from csplade.kernels.head import api as head
from csplade.kernels.runtime.transfer import Clock
from csplade.kernels.score import search
from csplade.kernels.score.types import Queries
from csplade.kernels.topk import api as topk

CPU = torch.device("cpu")
WIDTH, VOCABULARY = 64, 512


def queries(count: int, terms: int) -> Queries:
    indptr = np.arange(count + 1) * terms
    every = np.tile(np.arange(terms, dtype=np.int32), count)
    return Queries.from_impacts(ImpactBatch(indptr, every, every + 1, 1.0), CPU)


def segment(first: int, last: int) -> SimpleNamespace:
    """One document after another, each with a term of its own and one that all have."""
    blocks = []
    for start in range(first, last, 64):
        count = min(64, last - start)
        vectors = Rows(
            2 * np.arange(count + 1),
            np.stack([np.zeros(count), 1 + np.arange(count)], 1).astype(np.int32).reshape(-1),
            np.full(2 * count, 7, np.uint16),
        )
        blocks.append(make_block(vectors, VOCABULARY))
    ordinals, nothing = np.arange(first, last), np.zeros(0, np.uint8)
    return SimpleNamespace(segment=Segment.from_blocks(blocks), ordinals=ordinals, live=nothing)


recorder = Recorder()
force_triton()
weight = torch.zeros(VOCABULARY, WIDTH, dtype=torch.bfloat16)
postings = collection(70_000, 5.0, VOCABULARY, 1, CPU)
small = collection(1_500, 5.0, VOCABULARY, 1, CPU, block_size=600)

head.warm_up(weight)
topk.warm_up(VOCABULARY, CPU)
for one in (postings, small):
    search.warm_up(one)
warmed = recorder.take()

for tokens in (1, 2, 15, 16, 17, 31, 32, 48, 64, 65, 100, 128, 300, 1000, 5000):
    for texts in (1, 3, 16, 64):
        offsets = torch.tensor([0] * texts + [tokens])
        head.head(torch.zeros(tokens, WIDTH, dtype=torch.bfloat16), weight, offsets)
for k in (1, 2, 10, 16, 100, 255, 256, 300, 512, 1000, 1024):
    for rows in (1, 2, 16, 33):
        for scale in (None, 0.5, 1.0, 0.00125):
            topk.topk(torch.zeros(rows, VOCABULARY), k, scale=scale, maximum=255 if k > 9 else 4095)
for one in (postings, small):
    mask = torch.ones(one.blocks * one.block_size, dtype=torch.uint8)
    for count in (1, 2, 7, 16, 64):
        for terms in (1, 16, 17, 48, 300):
            for k in (1, 10, 16, 100, 1000, 10_000):
                search.search_blocks(queries(count, terms), one, k)
        search.search_blocks(queries(count, 9), one, 10, mask=mask)
        search.search_blocks(queries(count, 9), one.between(1, one.blocks), 10)
    search.search_blocks(queries(9, 9), one, 10, workspace=10**7)
    search.search_blocks(queries(9, 9), one, 10, mask=mask.expand(9, -1).contiguous(), workspace=1)
later, launched = recorder.take(), recorder.launched
# A search is so many launches, however many queries, blocks and documents it covers.
recorder.launched, per_search = [], []
for one in (collection(900, 5.0, VOCABULARY, 1, CPU), postings):
    for count in (1, 64):
        search.search_blocks(queries(count, 9), one, 1000)
        per_search.append(recorder.launched)
        recorder.launched = []
# Segments, gaps and short blocks change nothing about that; every shard is searched once.
per_index = []
for cuts in (((0, 400),), ((0, 100), (100, 130), (130, 131), (200, 400))):
    segments = tuple(segment(first, last) for first, last in cuts)
    shards = [SimpleNamespace(number=number, segments=segments) for number in range(2)]
    index = SimpleNamespace(
        block_size=64, shard_count=2, max_impact=255, vocabulary_size=VOCABULARY
    )
    searcher = DeviceSearcher.load(Placement.of(shards, index, ["cpu"]))
    recorder.launched = []
    searcher.search_tensors(queries(3, 9), 10, Clock(CPU))
    per_index.append(list(recorder.launched))
print(
    json.dumps(
        {
            "per_index": per_index,
            "per_search": per_search,
            "warmed": warmed,
            "later": later,
            "launched": launched,
        }
    )
)
