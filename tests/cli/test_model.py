import json

from csplade.model import Encoder, Manifest
from csplade.model.checkpoint.presets import PRESETS


def foreign(directory):
    """The directory as a plain causal LM: without its csplade.json."""
    (directory / "csplade.json").unlink()
    return directory


def test_info_says_which_preset_and_what_it_means(cli, fails, tiny_model, tiny_model_of):
    said = json.loads(cli("model", "info", tiny_model).out)
    assert (said["preset"], said["golden_vectors"]) == ("csplade.json", 3)
    assert said["fingerprint"] == Manifest.load(tiny_model).fingerprint
    directory = foreign(tiny_model_of())
    assert "give a manifest or a preset, one of csplade" in fails("model", "info", directory)
    said = json.loads(cli("model", "info", directory, "--preset", "lion-sp").out)
    assert (said["preset"], said["logit_scale"], said["document_max_tokens"]) == (
        "lion-sp",
        64**-0.25,
        128,
    )


def test_presets_are_listed(cli):
    out = cli("model", "presets").out
    assert all(name in out for name in PRESETS)


def test_certify_makes_a_foreign_checkpoint_ones_own(cli, tiny_model_of):
    directory = foreign(tiny_model_of())
    assert cli("model", "certify", directory, "--preset", "laconic").code == 0
    manifest = Manifest.load(directory)
    assert (manifest.query_prefix, len(manifest.golden)) == ("query: ", 3)
    assert Encoder.from_pretrained(directory).preset == "csplade.json"


def test_certify_that_fails_writes_nothing(fails, tiny_model_of):
    directory = foreign(tiny_model_of())
    assert "preset splade is for a masked lm" in fails(
        "model", "certify", directory, "--preset", "splade"
    )
    assert not (directory / "csplade.json").exists()


def test_idf_makes_queries_inference_free(cli, fails, tiny_model, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        '{"_id": "1", "text": "the river"}\n{"_id": "2", "title": "the", "text": "sea"}\n'
    )
    assert (
        cli(
            "train", "idf", "--corpus", corpus, "--model", tiny_model, "--out", tmp_path / "idf"
        ).code
        == 0
    )
    encoder = Encoder.from_pretrained(tmp_path / "idf")
    assert encoder.manifest.query_encoder == "lexical"
    assert (
        encoder.encode_query(["river"]).weights.max() > encoder.encode_query(["the"]).weights.max()
    )
    again = ("train", "idf", "--corpus", corpus, "--model", tiny_model, "--out", tmp_path / "idf")
    assert "nothing to do" in cli(*again).err
    assert "was made with counts False, now it is True" in fails(*again, "--counts")
    corpus.write_text('{"_id": "1", "text"\n')
    assert "corpus.jsonl:1: broken JSON" in fails(
        "train", "idf", "--corpus", corpus, "--model", tiny_model, "--out", tmp_path / "other"
    )
    assert not (tmp_path / "other").exists()
