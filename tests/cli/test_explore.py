"""``csplade explore`` and ``csplade demo --explore`` print the address of the page, and end."""

import json
import os
import signal
import subprocess
import sys
import urllib.request

CSPLADE = [sys.executable, "-c", "from csplade.cli.main import main; main()"]
COMMAND = [*CSPLADE, "explore"]


def test_it_prints_the_address_of_the_page(text_index):
    arguments = [str(text_index), "--port", "0", "--device", "cpu"]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().strip()
            with urllib.request.urlopen(address, timeout=30) as response:
                assert b"csplade explorer" in response.read()
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_other_services_are_named(text_index):
    arguments = [str(text_index), "--port", "0", "--device", "cpu", "--compare", "127.0.0.1:7"]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().strip()
            with urllib.request.urlopen(f"{address}/config.json", timeout=30) as response:
                assert json.load(response)["services"] == ["127.0.0.1:7"]
        finally:
            process.kill()


def test_an_address_without_a_port_is_one_line(text_index):
    arguments = [*COMMAND, str(text_index), "--compare", "elsewhere"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("csplade: flags: http.services.0.target = 'elsewhere': ")
    assert done.stderr.count("\n") == 1


def test_an_index_that_is_not_there_is_one_line(tmp_path):
    done = subprocess.run([*COMMAND, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("csplade: ")
    assert done.stderr.count("\n") == 1


def test_the_demo_serves_the_explorer(tiny_model, tmp_path):
    command = [*CSPLADE, "demo", "--explore", "--model", str(tiny_model), "--question", "bread"]
    environment = {**os.environ, "CSPLADE_CACHE": str(tmp_path)}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # Shells let what they start in the background ignore it, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            prefix = "The explorer: "
            line = next(line for line in process.stdout if line.startswith(prefix))
            address = line.removeprefix(prefix).strip()
            with urllib.request.urlopen(address, timeout=30) as response:
                assert b"csplade explorer" in response.read()
            assert any(line.startswith("Serving on") for line in process.stdout)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()
