import itertools
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from csplade.core.errors import InputError
from csplade.service.settings import Section, Settings, load

DEPLOYED = Path(__file__).parents[2] / "deploy" / "csplade.yaml"


def keys_of(tree, prefix=""):
    for key, value in tree.items():
        yield from keys_of(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]


def fields_of(model, prefix=""):
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from fields_of(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_the_deployed_file_has_every_key_and_the_defaults():
    assert sorted(keys_of(yaml.safe_load(DEPLOYED.read_text()))) == sorted(fields_of(Settings))
    assert load(DEPLOYED) == load()


def test_every_key_of_the_deployed_file_is_commented():
    lines = DEPLOYED.read_text().splitlines()
    keys = [
        (before, line)
        for before, line in itertools.pairwise(lines)
        if ": " in line and "#" not in line
    ]
    assert len(keys) == len(list(fields_of(Settings)))
    assert [line for before, line in keys if not before.strip().startswith("#")] == []


def test_flags_stand_over_environment_over_file(tmp_path, monkeypatch):
    file = tmp_path / "c.yaml"
    file.write_text("limits: {k: 1, explain_k: 1, query_terms: 1}\nbatching: {queue: 99}")
    monkeypatch.setenv("CSPLADE_LIMITS__K", "2")
    monkeypatch.setenv("CSPLADE_LIMITS__EXPLAIN_K", "2")
    settings = load(file, {"limits.k": 3, "server.port": None})
    assert (settings.limits.k, settings.limits.explain_k, settings.limits.query_terms) == (3, 2, 1)
    assert settings.batching.queue == 99
    assert settings.server.port == 50051


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        load().limits.k = 5


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("limits: {kk: 1}", r"c\.yaml: limits\.kk: unknown key; known are k, explain_k"),
        ("limit: {k: 1}", r"c\.yaml: limit: unknown key; known are index, writable"),
        ("limits: {k: 10001}", r"c\.yaml: limits\.k = 10001: .*less than or equal to 10000"),
        ("limits: {k: many}", r"c\.yaml: limits\.k = 'many': .*valid integer"),
        ("limits: 5", r"c\.yaml: limits = 5: "),
        (
            "security: {tls_key: a}",
            r"c\.yaml: security: tls_certificate and tls_key are given together",
        ),
        ("security: {client_ca: a}", r"c\.yaml: security: client_ca .* needs tls_certificate"),
        ("batching: {queue: 9}", r"settings: limits\.encode_texts 64 exceeds batching\.queue 9"),
        ("- a", r"c\.yaml: a mapping of settings is needed, found list"),
        ("a: [", r"c\.yaml: broken YAML: "),
    ],
)
def test_a_bad_file_is_one_line_naming_file_and_key(tmp_path, content, complaint):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(InputError, match=complaint) as error:
        load(tmp_path / "c.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("CSPLADE_LIMITS__KK", "1", r"environment: limits\.kk: unknown key"),
        ("CSPLADE_LIMITZ__K", "1", r"environment: CSPLADE_LIMITZ__K: unknown setting"),
        ("CSPLADE_LIMITS__K", "0", r"environment: limits\.k = '0': .*greater than or equal to 1"),
        ("CSPLADE_LIMITS", "{", r"environment: error parsing"),
    ],
)
def test_a_bad_variable_is_named(monkeypatch, variable, value, complaint):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=complaint):
        load()


def test_the_cache_directory_is_no_setting(monkeypatch):
    monkeypatch.setenv("CSPLADE_CACHE", "/somewhere")
    assert load() == load(DEPLOYED)


def test_a_missing_file_and_an_unknown_flag_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: no such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(InputError, match=r"flags: server\.prot: unknown key"):
        load(None, {"server.prot": 1})
