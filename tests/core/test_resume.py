import pytest

from csplade.core.errors import IncompatibleError
from csplade.core.resume import read_settings, require_same_settings, start_or_resume


def test_a_job_is_resumed_with_the_settings_it_was_started_with(tmp_path):
    path = tmp_path / "settings.json"
    for _ in range(2):
        start_or_resume(path, {"depth": 5, "names": ("a", "b")})
    with pytest.raises(IncompatibleError, match="was started with depth 5, now it is 6; resume"):
        start_or_resume(path, {"depth": 6, "names": ("a", "b")})
    with pytest.raises(IncompatibleError, match="was started with depth 5, now it is None"):
        start_or_resume(path, {"names": ("a", "b")})
    with pytest.raises(IncompatibleError, match="was started with pool None, now it is 3"):
        start_or_resume(path, {"depth": 5, "names": ("a", "b"), "pool": 3})


@pytest.mark.parametrize("content", [None, "", "[1]", '{"depth": '])
def test_settings_that_cannot_be_read_are_an_error(tmp_path, content):
    path = tmp_path / "settings.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(IncompatibleError, match="does not tell with which settings"):
        read_settings(path)


def test_long_values_are_cut_in_the_message(tmp_path):
    with pytest.raises(IncompatibleError) as raised:
        require_same_settings(tmp_path, {"words": ["x"] * 10**5}, {"words": []})
    assert len(str(raised.value)) < 400
