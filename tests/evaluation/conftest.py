import os
from pathlib import Path

import pytest


@pytest.fixture
def collection(tmp_path):
    """Writes a BEIR-format folder of three documents and two judged queries; its files are open to change."""

    def write(**changes: str) -> Path:
        folder = tmp_path / "small"
        files = {
            "corpus.jsonl": (
                '{"_id": "d1", "title": "Tea", "text": "leaves in hot water"}\n'
                '{"_id": "d2", "title": "", "text": "coffee beans ground and brewed"}\n'
                '{"_id": "d3", "text": "a river of cold water"}\n'
            ),
            "queries.jsonl": (
                '{"_id": "q1", "text": "hot tea"}\n'
                '{"_id": "q2", "text": "cold water"}\n'
                '{"_id": "q3", "text": "never judged"}\n'
            ),
            "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td3\t1\nq2\td3\t1\n",
        }
        for name, text in (files | changes).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return folder

    return write


@pytest.fixture
def real_collections():
    """The folder of real collections beside the repository, or CSPLADE_DATA."""
    folder = Path(os.environ.get("CSPLADE_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (folder / "scifact" / "corpus.jsonl").is_file():
        pytest.skip(f"no real collections in {folder}; set CSPLADE_DATA to their folder")
    return folder
