import pytest


@pytest.mark.slow
def test_the_command_serves_measures_and_writes_the_table(command_line, tmp_path):
    out = tmp_path / "table.md"
    arguments = ("--documents", 300, "--mean-terms", 20, "--queries", 3, "--query-terms", 5)
    done = command_line("bench", "serve", *arguments, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith("csplade serve, over gRPC")
    text = out.read_text()
    assert text.startswith("`csplade bench serve --documents 300")
    assert "| bare grpc.aio echo |" in text
