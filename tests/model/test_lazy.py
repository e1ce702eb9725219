"""A look-up query needs neither torch nor transformers; what loads later is checked as before."""

import dataclasses
import json
import subprocess
import sys

import pytest

from csplade.core.errors import IncompatibleError
from csplade.model import Encoder, Manifest

QUERY = """
import sys
from csplade.model import Encoder
encoder = Encoder.from_pretrained(sys.argv[1])
vectors = encoder.encode_query(["the river"])
loaded = {name for name in ("torch", "transformers", "numba", "peft") if name in sys.modules}
print(len(vectors.terms), sorted(loaded), encoder.tokens()[:1], encoder.decode(vectors) != [])
"""


def test_a_look_up_imports_no_network(tiny_model_of):
    directory = tiny_model_of(query_encoder="lexical")
    done = subprocess.run(
        [sys.executable, "-c", QUERY, str(directory)], capture_output=True, text=True, timeout=120
    )
    assert done.stderr == ""
    terms, rest = done.stdout.split(" ", 1)
    assert int(terms) > 0
    assert rest.startswith("[] ['<s>'] True")


def test_a_network_that_comes_later_is_checked_by_its_golden_texts(tiny_model_of):
    directory = tiny_model_of(query_encoder="lexical")
    dataclasses.replace(Manifest.load(directory), logit_shift=-1.5).save(directory)
    encoder = Encoder.from_pretrained(directory)
    assert len(encoder.encode_query(["the river"]).terms)
    for _ in range(2):
        with pytest.raises(IncompatibleError, match="golden document"):
            encoder.encode_document(["the river"])


def test_a_table_is_checked_at_once(tiny_model_of):
    directory = tiny_model_of(query_encoder="lexical")
    manifest = Manifest.load(directory)
    golden = [
        dataclasses.replace(one, weights=(2.0,) * len(one.weights)) for one in manifest.golden[:1]
    ]
    dataclasses.replace(manifest, golden=(*golden, *manifest.golden[1:])).save(directory)
    with pytest.raises(IncompatibleError, match=r"golden query .* times as large"):
        Encoder.from_pretrained(directory)


def test_token_ids_are_compared_exactly(tiny_model_of, monkeypatch):
    directory = tiny_model_of()
    monkeypatch.setattr(
        "csplade.model.tokenizer.Tokenizer.ids",
        lambda self, texts, *, special=False: [[7, 8, 9] for _ in texts],
    )
    with pytest.raises(IncompatibleError, match="gives other token ids from place"):
        Encoder.from_pretrained(directory)


def test_empty_golden_vectors_are_refused(tiny_model_of):
    directory = tiny_model_of()
    path = directory / "csplade.json"
    values = json.loads(path.read_text())
    values["golden"][1] |= {"terms": [], "weights": []}
    path.write_text(json.dumps(values))
    with pytest.raises(IncompatibleError, match="empty or infinite vector"):
        Encoder.from_pretrained(directory)
