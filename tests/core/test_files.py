import pytest

from csplade.core.files import share_files, write_aside


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


def test_files_are_readable_to_whoever_may_read_their_directory(tmp_path):
    (tmp_path / "weights").touch(mode=0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("/dev/null")
    tmp_path.chmod(0o755)
    share_files(tmp_path)
    assert (tmp_path / "weights").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700
