"""Warm the kernels up, then vary everything that requests vary; print what was compiled when."""

import json

import numpy as np
import torch
from recorder import Recorder, force_triton

from csplade.bench.synthetic_device import collection
from csplade.core.vectors import ImpactBatch
from csplade.kernels.head import api as head
from csplade.kernels.score import search
from csplade.kernels.score.types import Queries
from csplade.kernels.topk import api as topk

CPU = torch.device("cpu")
WIDTH, VOCABULARY = 64, 512


def queries(count: int, terms: int) -> Queries:
    indptr = np.arange(count + 1) * terms
    every = np.tile(np.arange(terms, dtype=np.int32), count)
    return Queries.from_impacts(ImpactBatch(indptr, every, every + 1, 1.0), CPU)


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
print(
    json.dumps({"per_search": per_search, "warmed": warmed, "later": later, "launched": launched})
)
