"""The lexical prior: BM25's share by hand, and that it comes on top of what the model says."""

import pytest
import torch

from csplade.core.errors import InputError
from csplade.model import Encoder, Manifest
from csplade.model.prior import own_share


def test_the_share_is_that_of_bm25():
    rows = torch.tensor([[2, 0, 2, -1], [1, -1, -1, -1], [-1, -1, -1, -1]])
    share = own_share(rows, torch.tensor([4, 1, 0]), 3, mean_tokens=2.0)
    long, short = 0.8 * (0.25 + 0.75 * 4 / 2), 0.8 * (0.25 + 0.75 * 1 / 2)
    expected = [[1 / (1 + long), 0, 2 / (2 + long)], [0, 1 / (1 + short), 0], [0, 0, 0]]
    torch.testing.assert_close(share, torch.tensor(expected))


def test_the_prior_comes_on_top_of_the_model(tiny_model_of):
    texts = ["the river meets the sea", "rain", ""]
    without, with_prior = (
        Encoder.from_pretrained(
            tiny_model_of(query_encoder="lexical", lexical_prior=prior), dtype=torch.float32
        )
        for prior in (0.0, 2.0)
    )
    tokens = without.tokenize(texts, "document").ids
    rows = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(ids).long() for ids in tokens], batch_first=True, padding_value=-1
    )
    share = own_share(rows, torch.tensor([len(ids) for ids in tokens]), without.vocabulary_size)
    plain, lifted = (_dense(encoder, texts) for encoder in (without, with_prior))
    torch.testing.assert_close(lifted, plain + 2.0 * share)


def test_it_needs_queries_that_are_looked_up():
    with pytest.raises(InputError, match=r"lexical_prior is 1\.0, needs query_encoder lexical"):
        Manifest(lexical_prior=1.0)
    with pytest.raises(InputError, match="query_counts is True, needs query_encoder lexical"):
        Manifest(query_counts=True)
    with pytest.raises(InputError, match="lexical_prior is 6, must be 0 to 5"):
        Manifest(query_encoder="lexical", lexical_prior=6)


def _dense(encoder: Encoder, texts: list[str]) -> torch.Tensor:
    vectors = encoder.encode_document(texts)
    dense = torch.zeros(len(texts), encoder.vocabulary_size)
    for row, (terms, weights) in enumerate(vectors):
        dense[row, torch.from_numpy(terms).long()] = torch.from_numpy(weights)
    return dense
