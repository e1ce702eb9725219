import numpy as np
import pytest

from .helpers import make_index, random_vectors


@pytest.fixture(scope="session")
def collection(tmp_path_factory):
    """(path, vectors) of a built index: 400 documents, 2 shards, several segments; not to be
    changed.
    """
    vectors = random_vectors(np.random.default_rng(5), 400)
    return make_index(tmp_path_factory.mktemp("index") / "index", vectors, shards=2), vectors
