import pytest

from csplade.bench.encode import compare_with_loop
from csplade.core.errors import InputError

TEXTS = ["rain falls on the mountains and feeds a river that runs to the sea"] * 40


def test_both_encoders_make_the_same_vectors_and_are_timed(tiny_model):
    report = compare_with_loop(str(tiny_model), TEXTS, 16, 16, threads=1, rounds=1)
    assert [one.name for one in report.encoders] == ["csplade", "plain transformers loop"]
    assert (report.passages, report.tokens, report.query_tokens) == (16, 16, 12)
    assert report.cosine > 0.99
    ours, theirs = report.encoders
    assert ours.ratio == 1.0
    assert theirs.ratio == pytest.approx(ours.passages_per_second / theirs.passages_per_second)


def test_too_little_text_and_too_many_tokens_are_rejected(tiny_model):
    with pytest.raises(InputError, match=r"corpus: .* tokens are too few; at least 256"):
        compare_with_loop(str(tiny_model), TEXTS[:1], 16, 16, threads=1)
    with pytest.raises(InputError, match="tokens: 100000 is too large"):
        compare_with_loop(str(tiny_model), TEXTS, 100_000, 16, threads=1)
