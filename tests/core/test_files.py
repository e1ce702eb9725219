import pytest

from csplade.core.files import write_aside


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")

    def interrupted():
        with write_aside(path) as file:
            file.write("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert path.read_text() == "old"
    with write_aside(path) as file:
        file.write("new")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert path.read_text() == "new"
