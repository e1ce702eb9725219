import pickle

import pytest

from csplade.core.errors import InputError
from csplade.core.filters import MAX_DEPTH, Exists, Filter, HasId, Match, Range

FIELDS = {
    "year": "integer",
    "language": "keyword",
    "at": "datetime",
    "ok": "bool",
    "price": "float",
}
YEAR = {"field": "year", "range": {"gte": 2000, "lt": 2010}}


def nested(depth):
    filter = {"must": [YEAR]}
    for _ in range(depth - 1):
        filter = {"must": [{"nested": filter}]}
    return filter


def test_the_json_form_comes_back():
    plain = {
        "must": [YEAR, {"field": "language", "match": {"any": ["en", "de"]}}],
        "should": [{"has_id": ["a", "b"]}, {"field": "at", "exists": False}],
        "must_not": [{"nested": {"must": [{"field": "ok", "match": {"except": [True]}}]}}],
    }
    filter = Filter.parse(plain)
    assert filter.to_json() == plain
    assert filter.must == (
        Range("year", gte=2000, lt=2010),
        Match("language", ("en", "de")),
    )
    assert filter.should == (HasId(("a", "b")), Exists("at", False))
    assert filter.must_not == (Filter(must=(Match("ok", (True,), excluded=True),)),)


def test_equal_filters_resolve_to_one_key():
    one = Filter.parse(
        {
            "must": [
                {"field": "year", "match": {"any": [2001.0, "2002", 2001]}},
                {"has_id": ["b", "a", "b"]},
            ]
        }
    ).resolve(FIELDS)
    other = Filter.parse(
        {
            "must": [
                {"has_id": ["a", "b"]},
                {"field": "year", "match": {"any": [2002, 2001]}},
                {"has_id": ["b", "a"]},
            ]
        }
    ).resolve(FIELDS)
    assert one == other
    assert hash(one) == hash(other)
    assert {one: 1}[pickle.loads(pickle.dumps(other))] == 1
    assert one != Filter.parse({"must": [{"has_id": ["a", "b"]}]}).resolve(FIELDS)


def test_values_take_the_type_of_their_field():
    bounds = {"gt": "1970-01-01T00:00:01Z"}
    found = Filter.parse({"must": [{"field": "at", "range": bounds}]}).resolve(FIELDS)
    assert found.must == (Range("at", gt="1970-01-01T00:00:01+00:00"),)
    assert found.resolve(FIELDS) == found
    large = {"field": "year", "match": {"any": [str(2**63 - 1)]}}
    assert Filter.parse({"must": [large]}).resolve(FIELDS).must[0].values == (2**63 - 1,)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ([], r"filter: \[\] is not an object; an object with must, should, must_not"),
        ({"musst": []}, "filter: key 'musst' is unknown; allowed are must, should, must_not"),
        ({"must": YEAR}, "filter.must: .* is not a list"),
        ({"must": ["a"]}, r"filter.must\[0\]: 'a' is not an object"),
        ({"must": [{}]}, r"filter.must\[0\]: has no condition; exactly one of match, range"),
        ({"must": [{**YEAR, "exists": True}]}, r"must\[0\]: has range, exists; exactly one of"),
        ({"must": [{"range": {"gt": 1}}]}, r"must\[0\].field: None is not a name"),
        ({"must": [{"field": "year", "range": {}}]}, r"must\[0\].range: has no bound"),
        ({"must": [{"field": "year", "range": {"ge": 1}}]}, "range: key 'ge' is unknown"),
        ({"must": [{"field": "year", "range": {"gt": None}}]}, "range.gt: None is not a string"),
        ({"must": [{"field": "year", "match": {}}]}, "match: has nothing; exactly one of any"),
        ({"must": [{"field": "year", "match": {"any": []}}]}, r"match.any: \[\] is not a list of"),
        ({"must": [{"field": "year", "match": {"any": [[]]}}]}, r"match.any\[0\]: \[\] is not a"),
        ({"must": [{"field": "year", "exists": 1}]}, "exists: 1 is not true or false"),
        ({"must": [{"has_id": [1]}]}, r"has_id\[0\]: 1 is not a string"),
        ({"must": [{"field": "id", "has_id": ["a"]}]}, "field: 'id' goes without has_id"),
        (nested(MAX_DEPTH + 1), f"{MAX_DEPTH + 1} filters inside each other are too many"),
    ],
)
def test_filters_of_another_form_are_rejected(plain, message):
    with pytest.raises(InputError, match=message):
        Filter.parse(plain)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (
            {"must": [{"field": "color", "exists": True}]},
            "field 'color' is not declared; declared are year, language, at, ok, price; declare it "
            "with `csplade index declare DIR color:TYPE`",
        ),
        ({"must": [{"field": "year", "match": {"any": ["x"]}}]}, "year: 'x' is not integer"),
        ({"must": [{"field": "year", "range": {"gt": 1.5}}]}, "year: 1.5 is not integer"),
        ({"must": [{"field": "language", "range": {"gt": "a"}}]}, "language is keyword, which has"),
        ({"must": [YEAR] * 257}, "filter: 257 conditions are too many; at most 256 are allowed"),
        ({"must": [{"has_id": ["a"] * 16_385}]}, "filter: 16385 values are too many; at most"),
    ],
)
def test_filters_that_do_not_fit_the_index_are_rejected(plain, message):
    with pytest.raises(InputError, match=message):
        Filter.parse(plain).resolve(FIELDS)


def test_filters_as_deep_as_allowed_pass():
    assert Filter.parse(nested(MAX_DEPTH)).resolve(FIELDS)
    deep = Filter(must=(Exists("year"),))
    for _ in range(MAX_DEPTH):
        deep = Filter(must=(deep,))
    with pytest.raises(InputError, match="filters inside each other are too many"):
        deep.resolve(FIELDS)
