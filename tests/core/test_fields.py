import pytest

from csplade.core.errors import InputError
from csplade.core.fields import check_document, convert, parse_fields


@pytest.mark.parametrize(
    ("kind", "value", "converted"),
    [
        ("keyword", "en", "en"),
        ("keyword", 5, None),
        ("bool", False, False),
        ("bool", 0, None),
        ("integer", -3, -3),
        ("integer", 2.0, 2),
        ("integer", 2.5, None),
        ("integer", True, None),
        ("integer", 2**63 - 1, 2**63 - 1),
        ("integer", 2**63, None),
        ("integer", 1e300, None),
        ("integer", float("inf"), None),
        ("integer", "3", None),
        ("float", 3, 3.0),
        ("float", float("nan"), None),
        ("float", 10**400, None),
        ("datetime", "1970-01-01", 0),
        ("datetime", "1970-01-01T01:00:00+01:00", 0),
        ("datetime", "1970-01-01T00:00:00.000001Z", 1),
        ("datetime", "1969-12-31T23:59:59", -1_000_000),
        ("datetime", "0001-01-01", -62_135_596_800_000_000),
        ("datetime", "0001-01-01T00:00:00+14:00", None),
        ("datetime", "yesterday", None),
        ("datetime", 5, None),
    ],
)
def test_values_convert_to_their_fields_type_or_to_none(kind, value, converted):
    found = convert(kind, value)
    assert found == converted
    assert type(found) is type(converted)


def test_a_document_may_lack_fields_and_hold_lists():
    fields = {"year": "integer", "tags": "keyword"}
    for metadata in ({}, {"year": None}, {"tags": []}, {"year": [1, 2], "tags": "a", "other": {}}):
        check_document(metadata, fields, "a")


@pytest.mark.parametrize("value", ["2000", [1, None], [[1]], {"a": 1}])
def test_a_value_of_another_type_names_document_field_and_value(value):
    with pytest.raises(InputError, match=r"document 'a': field year: .* is not integer; allowed"):
        check_document({"year": value}, {"year": "integer"}, "a")


def test_declarations_are_name_and_type():
    assert parse_fields(["year:integer", "a:b:keyword"]) == {"year": "integer", "a:b": "keyword"}
    for texts, message in (
        (["year"], "field: name '' is out of range"),
        (["year:int"], "field year: type 'int' is unknown; allowed are keyword, bool"),
        (["year:float", "year:integer"], "field year: is declared twice"),
        ([f"f{i}:bool" for i in range(65)], "fields: 65 are too many; at most 64"),
    ):
        with pytest.raises(InputError, match=message):
            parse_fields(texts)
