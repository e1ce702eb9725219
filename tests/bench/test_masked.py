import pytest

from csplade.bench.masked import compare_with_sparse_encoder
from csplade.core.errors import InputError

TEXTS = [
    "rain falls on the mountains and feeds a river",
    "bread rises when yeast turns sugar into gas",
    " ",
]


def test_both_encoders_make_the_same_vectors_and_are_timed():
    pytest.importorskip("sentence_transformers")
    report = compare_with_sparse_encoder("tiny", TEXTS, 16, 8, threads=1, rounds=1)
    assert [one.name for one in report.encoders] == ["csplade", "SparseEncoder"]
    assert report.passages == 2
    assert report.cosine > 0.9
    ours, theirs = report.encoders
    assert ours.ratio == 1.0
    assert theirs.ratio == pytest.approx(ours.passages_per_second / theirs.passages_per_second)


def test_rejects_unknown_sizes_and_no_texts():
    with pytest.raises(
        InputError, match="masked-lm: 'huge' is unknown; must be one of tiny, distilbert, bert-base"
    ):
        compare_with_sparse_encoder("huge", TEXTS, 16, 8, threads=1)
    with pytest.raises(InputError, match="no texts"):
        compare_with_sparse_encoder("tiny", ["", " "], 16, 8, threads=1)
