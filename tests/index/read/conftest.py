"""Searches of few documents use threads too."""

import pytest

from csplade.index.read import cpu


@pytest.fixture(autouse=True)
def threads_from_the_first_document(monkeypatch):
    monkeypatch.setattr(cpu, "THREADED_FROM", 0)
