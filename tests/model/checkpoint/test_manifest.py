import dataclasses
import json

import pytest

from csplade.core.errors import CorruptError, InputError
from csplade.model import Golden, Manifest

GOLDEN = Golden(kind="query", text="a", terms=(1, 5), weights=(0.5, 1.25))


def test_survives_the_disk(tmp_path):
    manifest = Manifest(
        variant="echo", layers=3, base={"name": "b", "sha256": "c"}, golden=(GOLDEN,)
    )
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest


def test_fingerprint_follows_every_field_but_the_golden_vectors():
    manifest = Manifest()
    assert dataclasses.replace(manifest, golden=(GOLDEN,)).fingerprint == manifest.fingerprint
    changes = {
        "variant": "echo",
        "lowercase": True,
        "query_prefix": "q",
        "logit_scale": 2.0,
        "weights_hash": "x",
    }
    prints = {
        dataclasses.replace(manifest, **{name: value}).fingerprint
        for name, value in changes.items()
    }
    assert len(prints | {manifest.fingerprint}) == len(changes) + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"variant": "sideways"},
            "variant is 'sideways', must be one of causal, echo, bidirectional",
        ),
        ({"logit_scale": 0.0}, "logit_scale is 0.0, must be > 0"),
        ({"query_max_terms": 1025}, "query_max_terms is 1025, must be 1 to 1024"),
        ({"document_max_tokens": 0}, "document_max_tokens is 0, must be 1 to 8192"),
    ],
)
def test_refuses_values(change, message):
    with pytest.raises(InputError, match=message):
        Manifest(**change)


def test_refuses_unknown_keys_other_versions_and_torn_files(tmp_path):
    path = tmp_path / "csplade.json"
    values = Manifest().to_dict()
    path.write_text(json.dumps({**values, "colour": "red"}))
    with pytest.raises(InputError, match="unknown key 'colour'"):
        Manifest.load(tmp_path)
    path.write_text(json.dumps({**values, "format_version": 99}))
    with pytest.raises(CorruptError, match="format version 99"):
        Manifest.load(tmp_path)
    path.write_text(json.dumps(values)[:40])
    with pytest.raises(CorruptError, match="not readable as JSON"):
        Manifest.load(tmp_path)
    path.write_text("[1]")
    with pytest.raises(CorruptError, match="not a model manifest"):
        Manifest.load(tmp_path)
    for change in ({"layers": "3"}, {"base": None}, {"lowercase": 1}, {"golden": [{"kind": "x"}]}):
        path.write_text(json.dumps({**values, **change}))
        with pytest.raises(InputError, match=f"csplade.json: {next(iter(change))} is|kind is"):
            Manifest.load(tmp_path)
