import subprocess
import sys

import csplade


def test_without_the_server_extra_the_command_says_what_to_install():
    program = "import sys; sys.modules['typer'] = None; from csplade.cli import run; run()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "csplade[server]" in done.stderr
    assert done.stderr.count("\n") == 1


def test_version_and_help_load_no_torch():
    program = (
        "import sys; from csplade.cli import run\n"
        "try:\n    run()\nexcept SystemExit:\n    print('torch' in sys.modules)"
    )
    for option, expected in (("--version", csplade.__version__), ("--help", "evaluate")):
        done = subprocess.run(
            [sys.executable, "-c", program, option], capture_output=True, text=True
        )
        assert expected in done.stdout
        assert done.stdout.endswith("False\n")
