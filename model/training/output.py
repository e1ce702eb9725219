"""What a phase of training writes: a model directory, whole, once, and never over anything else."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...core.errors import InputError
from ...core.files import sync_directory
from ...core.resume import SETTINGS_FILE, is_finished, open_work, write_settings
from ..checkpoint.hashes import weights_hash
from ..checkpoint.layout import find
from ..checkpoint.manifest import Manifest

JOB_FILE = "training.json"  # in the model directory: what it was made with
_FINISHED = "finished"


class Output:
    """The model directory that a phase writes, and ``OUT.work`` that it resumes from.

    Args:
        out: the directory; must not be there, or be from this very job.
        phase: name of the phase.
        settings: all that the result depends on, as values that JSON can hold.
    """

    def __init__(self, out: Path, phase: str, settings: Mapping[str, Any]) -> None:
        self.out, self.settings = out, {"phase": phase, **settings}
        self.work = out.with_name(out.name + ".work")

    def finished(self) -> bool:
        """Return whether this job wrote the directory before, so that there is nothing to do.

        Raises:
            InputError: something else is there.
            IncompatibleError: the directory is from a job with another setting.
        """
        return is_finished(self.out, self.out / JOB_FILE, self.settings)

    def open_work(self) -> None:
        """Make or find ``OUT.work``.

        Raises:
            InputError: it is not from a job, or its job ended and the result is gone.
            IncompatibleError: it is from a job with another setting.
        """
        open_work(self.work, self.settings)
        if (self.work / _FINISHED).exists():
            raise InputError(
                f"{self.work}: its job ended, and {self.out.name} is gone; delete {self.work} to "
                "train again, or write elsewhere"
            )

    @contextmanager
    def write(self) -> Iterator[Path]:
        """Yield an empty directory that becomes ``out`` when the block ends without an error."""
        resumable = (self.work / SETTINGS_FILE).is_file()
        if resumable:
            aside = self.work / "result"
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
        else:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            aside = Path(
                tempfile.mkdtemp(prefix=f"{self.out.name}.", suffix=".part", dir=self.out.parent)
            )
            aside.chmod(0o755)
        try:
            yield aside
            write_settings(aside / JOB_FILE, self.settings)
            for path in aside.rglob("*"):
                if path.is_file():
                    with open(path, "rb") as file:
                        os.fsync(file.fileno())
            os.rename(aside, self.out)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        sync_directory(self.out.parent)
        if resumable:
            (self.work / _FINISHED).touch()


def model_digest(model: Path) -> str:
    """Return a hash of a model directory: manifest and weights as they are."""
    manifest = Manifest.load(model)
    found = weights_hash(find(model, manifest), manifest)
    return replace(manifest, weights_hash=found).fingerprint[:16]


def digest(texts: Iterable[str]) -> str:
    """Return a hash of texts in their order."""
    found = hashlib.sha256()
    for text in texts:
        said = text.encode("utf-8", "surrogatepass")
        found.update(len(said).to_bytes(8, "little") + said)
    return found.hexdigest()[:16]
