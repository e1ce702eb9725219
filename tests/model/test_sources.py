"""Which token made a term: the pooled maximum is at its place."""

import numpy as np
import torch

from csplade.model import Encoder


def test_the_token_of_the_largest_logit_is_named(encoder):
    texts = ["rivers in winter carry iron", "the sun"]
    tokens = encoder.tokenize(texts, "document")
    vectors = encoder.encode_tokens(tokens, "document").vectors
    network = encoder.network
    for ids, (terms, _), sources in zip(
        tokens.ids, vectors, encoder.sources(tokens, "document", vectors), strict=True
    ):
        with torch.inference_mode():
            lengths = torch.tensor([len(ids)])
            hidden, _ = network.pooled(torch.from_numpy(ids.astype(np.int64))[None], lengths)
            logits = (hidden @ network.weight.T + network.bias).numpy()
        columns = np.searchsorted(network.terms.numpy(), terms)
        assert sources.dtype == np.int32
        assert (sources == logits[:, columns].argmax(0)).all()
        assert len(np.unique(sources)) > 1


def test_a_table_names_the_first_token_of_a_term(tiny_model_of):
    model = tiny_model_of(query_encoder="lexical")
    encoder = Encoder.from_pretrained(model, device="cpu")
    tokens = encoder.tokenize(["iron river iron", ""], "query")
    vectors = encoder.encode_tokens(tokens, "query").vectors
    first, second = encoder.sources(tokens, "query", vectors)
    terms, _ = vectors.row(0)
    ids = tokens.ids[0].tolist()
    assert first.tolist() == [ids.index(term) for term in terms.tolist()]
    assert len(second) == 0
