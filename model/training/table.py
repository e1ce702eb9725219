"""Learn the table of a lexical query encoder from teachers: how much each term matters.

Documents are represented by their own terms alone (:mod:`..prior`), so nothing is encoded and a
score is linear in the table: the loss sees all candidates of all queries in every step. Each weight
is the model's own times a factor. The loss is that of distillation (``nce * InfoNCE + kl * KL``
over each query's candidates, at a learned temperature) and ``ridge * sum(log(factor)^2)``, which
keeps terms that training queries say little about where they were: without it a table fits the
collections it learns from and is worse on others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.errors import InputError
from ..checkpoint.head import load_head
from ..checkpoint.layout import find
from ..checkpoint.manifest import Manifest
from ..checkpoint.tokenizer import load_tokenizer
from ..lexical import load_table
from ..prior import saturated
from ..tokenizer import Tokenizer
from ..tokens import tokenize
from .idf import write_table
from .output import Output, model_digest
from .pairs import Source
from .retrieval import check_teachers, combine_teachers

FIRST_TEMPERATURE = 1.5


def train_table(
    model: Path,
    sources: Sequence[Source],
    out: Path,
    teachers: Sequence[str],
    *,
    nce: float = 0.3,
    kl: float = 0.7,
    ridge: float = 3e-4,
    steps: int = 80,
    rate: float = 0.05,
    progress: Callable[[str, int, int], None] | None = None,
) -> bool:
    """Copy a model to ``out`` with a table learned from mined candidates.

    Returns whether there was anything to do.

    Args:
        model: model directory with ``query_encoder: lexical``.
        sources: where queries, candidates and the teachers' scores come from.
        out: directory to write, not there yet.
        teachers: names of scores in the mined files.
        nce, kl, ridge: weights of the parts of the loss.
        steps: of Adam, each over everything.
        rate: its learning rate.
        progress: called with a label, what is done of it, and its total.

    Raises:
        InputError: ``out`` is something else, the model's queries are not looked up, or a mined
            file lacks a teacher.
        IncompatibleError: ``out`` was made with another setting, model or data.
    """
    manifest = Manifest.load(model)
    if manifest.query_encoder != "lexical":
        raise InputError(
            f"{model}: its queries are not looked up in a table; make one with: csplade train idf"
        )
    check_teachers(sources, teachers)
    settings = {
        "teachers": list(teachers), "nce": nce, "kl": kl, "ridge": ridge, "steps": steps,
        "rate": rate, "model": model_digest(model), "data": [one.digest() for one in sources],
    }  # fmt: skip
    output = Output(out, "table", settings)
    if output.finished():
        return False
    show = progress or (lambda what, done, of: None)
    mined = [one for source in sources for one in source.mined]
    weigh = combine_teachers(mined, teachers)
    tokenizer, head = load_tokenizer(model, manifest), load_head(model, manifest.vocabulary_size)
    kept = torch.from_numpy(head.terms).long()
    before = torch.from_numpy(load_table(find(model, manifest), manifest, tokenizer).weights)[kept]

    places, terms, shares, wanted, good, lengths = [], [], [], [], [], []
    pairs = 0
    for number, (place, term, share, count) in enumerate(
        _shared(tokenizer, manifest, torch.from_numpy(head.rows), sources)
    ):
        one = mined[number]
        places.append(place + pairs)
        terms.append(term)
        shares.append(share)
        scores = torch.from_numpy(np.stack([one.scores[name] for name in teachers]))
        wanted.append(torch.log_softmax((weigh[:, None] * scores).sum(0), 0))
        good.append(torch.arange(count) < len(one.positives))
        lengths.append(count)
        pairs += count
        if number % 256 == 0 or number == len(mined) - 1:
            show("counting", number + 1, len(mined))
    place, term, share = torch.cat(places), torch.cat(terms), torch.cat(shares)
    teacher, judged = torch.cat(wanted), torch.cat(good)
    query = torch.repeat_interleave(torch.arange(len(mined)), torch.tensor(lengths))

    factor = torch.zeros(len(before), requires_grad=True)  # its logarithm
    temperature = torch.tensor(FIRST_TEMPERATURE).log().requires_grad_(True)
    optimizer = torch.optim.Adam([factor, temperature], lr=rate)
    for step in range(steps):
        weights = before * factor.exp()
        scores = torch.zeros(pairs).index_add(0, place, share * weights[term]) / temperature.exp()
        student = _log_softmax(scores, query, len(mined))
        divergence = (teacher.exp() * (teacher - student)).sum() / len(mined)
        loss = kl * divergence - nce * student[judged].mean() + ridge * factor.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        show("steps", step + 1, steps)
    learned = np.zeros(manifest.vocabulary_size, dtype=np.float32)
    learned[kept.numpy()] = (before * factor.detach().exp()).numpy()
    write_table(model, output, learned, manifest)
    return True


def _shared(
    tokenizer: Tokenizer, manifest: Manifest, rows: Tensor, sources: Sequence[Source]
) -> Iterator[tuple[Tensor, Tensor, Tensor, int]]:
    """Yield, for each query, what it shares with its candidates.

    Candidate, term and the term's share of that candidate, one entry per shared term; and the
    number of candidates.
    """
    for source in sources:
        names = sorted({passage for one in source.mined for passage in one.candidates})
        texts = [source.collection.passages[name] for name in names]
        ids = tokenize(tokenizer, manifest, texts, "document").ids
        passages = {
            name: rows[torch.from_numpy(row).long()] for name, row in zip(names, ids, strict=True)
        }
        queries = [source.collection.queries[one.query] for one in source.mined]
        asked = tokenize(tokenizer, manifest, queries, "query").ids
        for one, tokens in zip(source.mined, asked, strict=True):
            terms, counts = rows[torch.from_numpy(tokens).long()].unique(return_counts=True)
            counts = (counts if manifest.query_counts else torch.ones_like(counts))[terms >= 0]
            terms = terms[terms >= 0]
            found = [passages[name] for name in one.candidates]
            padded = torch.nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=-1)
            often = (padded[:, :, None] == terms).sum(1).float()
            share = saturated(often, torch.tensor([len(row) for row in found])) * counts
            place, column = share.nonzero(as_tuple=True)
            yield place, terms[column], share[place, column], len(found)


def _log_softmax(scores: Tensor, query: Tensor, queries: int) -> Tensor:
    """Return the log-softmax of scores [pairs] over the pairs of each query."""
    largest = torch.full((queries,), -torch.inf).scatter_reduce(0, query, scores.detach(), "amax")
    shifted = scores - largest[query]
    return shifted - torch.zeros(queries).index_add(0, query, shifted.exp()).log()[query]
