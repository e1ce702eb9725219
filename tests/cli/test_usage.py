"""Values that no command accepts are rejected with one line, before any work."""

import pytest


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ("index", "build", "--vectors", "{lines}", "--document-scale", "0"),
            "'--document-scale': 0 is out of range; must be finite and > 0",
        ),
        (
            ("index", "build", "--vectors", "{lines}", "--document-scale", "inf"),
            "'--document-scale': inf is out of range; must be finite and > 0",
        ),
        (("index", "build", "--vectors", "{lines}", "--terms", "words"), "'words' is not one of"),
        (("search", "nowhere", " "), "'TEXT': it is blank; must have at least one word"),
        (("search", "nowhere", "tea", "-k", "-1"), "'-k': "),
        (("demo", "--question", ""), "--question: it is blank; must have a word"),
        (("plan", "--documents", "10", "--rate", "inf"), "'--rate': "),
        (("plan", "--documents", "10", "--mean-terms", "nan"), "'--mean-terms': "),
        (("loadtest", "--target", "h:1", "--timeout", "0"), "'--timeout': "),
        (("loadtest", "--target", "h:1", "--p99", "nan"), "'--p99': "),
        (("encode", "--input", "{lines}", "--output", "v", "--kind", "doc"), "'doc' is not one of"),
        (("bench", "kernels", "--op", "heads"), "'heads' is unknown; must be one of head, topk"),
    ],
)
def test_a_wrong_value_is_one_line(cli, lines, tmp_path, arguments, complaint):
    vectors = lines("v.jsonl", {"id": "a", "vector": {"3": 1.5}})
    out = tmp_path / "out"
    filled = [one.format(lines=vectors) for one in arguments]
    outcome = cli(*filled, *(["--out", out] if arguments[0] == "index" else []))
    assert outcome.code == 2
    (error,) = [line for line in outcome.err.splitlines() if line.startswith("Error: ")]
    assert complaint in error
    assert not out.exists()


def test_more_layers_than_the_base_has_are_rejected(cli, beir_folder, tmp_path, monkeypatch):
    from csplade.model.checkpoint import base

    (tmp_path / "config.json").write_text('{"num_hidden_layers": 30}')
    monkeypatch.setattr(base, "pull", lambda: tmp_path)
    out = tmp_path / "out"
    outcome = cli("train", "start", "--data", beir_folder(), "--out", out, "--layers", 300)
    assert outcome.code == 2
    assert "--layers: 300 is too large; the base has 30 layers" in outcome.err
    assert not out.exists()


@pytest.mark.parametrize(("variant", "most"), [("causal", 1024), ("echo", 512)])
def test_longer_texts_than_the_model_has_positions_for_are_rejected(
    cli, beir_folder, tiny_model_of, tmp_path, variant, most
):
    out, model = tmp_path / "out", tiny_model_of(variant=variant)
    for command in ("adapt", "calibrate"):
        arguments = ("--model", model, "--data", beir_folder(), "--out", out, "--length", 5000)
        outcome = cli("train", command, *arguments)
        assert outcome.code == 2
        assert f"--length: 5000 is too large; {model} has positions for {most}" in outcome.err
        assert not out.exists()


def test_a_gpu_that_is_not_there_is_one_line(fails, beir_folder, tiny_model, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = ("--data", beir_folder(), "--out", tmp_path / "out", "--device", "cuda")
    said = fails("train", "adapt", "--model", tiny_model, *arguments)
    assert said.startswith("--device: 'cuda' is not available, torch sees 0 CUDA devices")
    assert fails("bench", "score", "--device", "cuda").startswith("device: 'cuda' is not available")
