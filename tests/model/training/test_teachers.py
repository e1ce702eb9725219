"""Teachers of other libraries: each directory is read by its own class, and scores are those that
this class gives.
"""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from csplade.core.errors import InputError
from csplade.model.training.teachers import PairScorer, Ranker, load_teacher

sentence_transformers = pytest.importorskip("sentence_transformers")

QUERIES = ["rivers in winter", "iron and stone"]
PASSAGES = ["the river in winter", "stone bridges over the river", "a map of the sea", "iron"]


def bert(word_pieces) -> BertConfig:
    torch.manual_seed(21)
    return BertConfig(
        vocab_size=len(word_pieces),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=40,
        initializer_range=0.3,
        num_labels=1,
    )


def prepared(directory, tmp_path):
    teacher = load_teacher(str(directory))
    told = []
    work = tmp_path / "work"
    work.mkdir()
    teacher.prepare(PASSAGES, work, lambda *what: told.append(what))
    return teacher, told


def test_a_dense_model_ranks_by_its_own_similarity(word_pieces, tmp_path):
    directory = tmp_path / "dense"
    BertModel(bert(word_pieces)).save_pretrained(tmp_path / "bert")
    word_pieces.save_pretrained(tmp_path / "bert")
    peer = sentence_transformers.SentenceTransformer(
        str(tmp_path / "bert"), device="cpu"
    )  # mean pooling
    peer.save(str(directory))
    teacher, told = prepared(directory, tmp_path)
    assert isinstance(teacher, Ranker)
    assert told == [("dense", 4, 4)]
    expected = peer.encode_query(QUERIES) @ peer.encode_document(PASSAGES).T
    np.testing.assert_allclose(teacher.rank(QUERIES), expected, rtol=1e-4, atol=1e-4)


def test_a_sparse_encoder_ranks_by_its_dot_product(sparse_encoder, tmp_path):
    directory = sparse_encoder()
    peer = sentence_transformers.SparseEncoder(str(directory), device="cpu")
    teacher, _ = prepared(directory, tmp_path)
    assert isinstance(teacher, Ranker)
    expected = (peer.encode_query(QUERIES) @ peer.encode_document(PASSAGES).T).to_dense().numpy()
    np.testing.assert_allclose(teacher.rank(QUERIES), expected, rtol=1e-4, atol=1e-4)


def test_a_cross_encoder_scores_pairs_only(word_pieces, tmp_path):
    directory = tmp_path / "cross"
    BertForSequenceClassification(bert(word_pieces)).save_pretrained(directory)
    word_pieces.save_pretrained(directory)
    teacher, _ = prepared(directory, tmp_path)
    assert not isinstance(teacher, Ranker)
    scorer: PairScorer = teacher
    peer = sentence_transformers.CrossEncoder(str(directory), device="cpu")
    expected = peer.predict([(QUERIES[1], PASSAGES[i]) for i in (3, 0)])
    np.testing.assert_allclose(scorer.pairs(QUERIES[1], np.array([3, 0])), expected, rtol=1e-5)


def test_anything_else_is_refused(tmp_path):
    with pytest.raises(
        InputError, match="must be bm25, a sentence-transformers directory or a model"
    ):
        load_teacher(str(tmp_path))
