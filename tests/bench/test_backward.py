import pytest

from csplade.bench import backward
from csplade.bench.backward import BatchShape, compare_heads
from csplade.core.errors import UnavailableError


def test_the_naive_head_takes_memory_for_every_logit():
    shape = BatchShape(texts=8, tokens=64, hidden=32, vocabulary=32_768)
    own, naive = compare_heads(shape, rounds=1)
    assert (own.name, naive.name) == ("csplade", "naive")
    assert own.seconds > 0
    # Autograd keeps at least the raw logits and their activation: float32 each.
    kept = 2 * 4 * shape.texts * shape.tokens * shape.vocabulary / 1e6
    assert naive.megabytes > kept
    assert own.megabytes < kept


def test_a_process_that_fails_is_named(monkeypatch):
    monkeypatch.setattr(backward.sys, "executable", "/bin/false")
    with pytest.raises(UnavailableError, match="the tensors head failed with exit code 1"):
        compare_heads(BatchShape(1, 1, 16, 64))
