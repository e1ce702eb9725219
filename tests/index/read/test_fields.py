"""Columns: of documents, and of some documents of others."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from csplade.core.fields import canonical, values_of
from csplade.index.read.fields import Column, FieldColumns
from csplade.index.storage.ids import ResidentIds

VALUES = {
    "keyword": st.sampled_from(["a", "b", "é", ""]),
    "bool": st.booleans(),
    "integer": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "datetime": st.datetimes().map(lambda moment: moment.isoformat()),
}


def held(column):
    """The values of each document."""
    found = [[] for _ in range(column.documents)]
    owners = range(column.documents) if column.owners is None else column.owners.tolist()
    names = None if column.codes is None else {code: text for text, code in column.codes.items()}
    for owner, value in zip(owners, column.values.tolist(), strict=True):
        found[owner].append(value if names is None else names[value])
    return found


@st.composite
def documents(draw):
    """A kind, and parts of documents: values, and which of them are taken."""
    kind = draw(st.sampled_from(list(VALUES)))
    values = st.lists(VALUES[kind], max_size=3) if draw(st.booleans()) else VALUES[kind]
    part = st.lists(st.tuples(values, st.booleans()), max_size=6)
    return kind, draw(st.lists(part, min_size=1, max_size=4))


@given(documents())
def test_joined_columns_are_those_of_the_documents_that_are_taken(case):
    kind, parts = case
    columns = [
        (
            Column.of(kind, [values_of({"f": value}, "f", kind, "a") for value, _ in part]),
            np.array([kept for _, kept in part], dtype=bool),
        )
        for part in parts
    ]
    taken = [value for part in parts for value, kept in part if kept]
    whole = Column.of(kind, [values_of({"f": value}, "f", kind, "a") for value in taken])
    joined = Column.join(columns)
    assert held(joined) == held(whole)
    assert (joined.owners is None) == (whole.owners is None)
    assert joined.values.dtype == whole.values.dtype
    assert (joined.codes or {}).keys() == (whole.codes or {}).keys()
    some = [canonical(kind, one) for value in taken for one in np.atleast_1d(value).tolist()][:2]
    np.testing.assert_array_equal(joined.match(some, False), whole.match(some, False))


def test_columns_of_a_block_of_documents_stand_alone():
    ids = ResidentIds(["a", "b", "c"])
    rows = [("a", {"year": 1}), ("b", {}), ("c", {"year": [2, 3]})]
    block = FieldColumns.of(rows, {"year": "integer"}, ids)
    assert held(block.columns["year"]) == [[1], [], [2, 3]]
    assert block.have_id(["c", "x", "a"]).tolist() == [True, False, True]
    kept = np.array([False, True, True])
    both = FieldColumns.join([(block, kept), (block, ~kept)], ResidentIds(["b", "c", "a"]))
    assert held(both.columns["year"]) == [[], [2, 3], [1]]
    assert both.have_id(["a"]).tolist() == [False, False, True]
