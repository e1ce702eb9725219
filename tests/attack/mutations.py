"""Strategies that spoil what was valid: bytes, JSON values, protobuf messages."""

from __future__ import annotations

import copy
import json
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from csplade.v1.retrieval_pb2 import SparseVector

# Of the profile in force: 100 examples, more with --hypothesis-profile=long.
fuzzed = settings(deadline=None, suppress_health_check=list(HealthCheck))

DEEP = 100_000  # levels of nesting that no parser of Python follows
DEEPEST = 5  # levels of a message; a filter may hold filters
HOSTILE = [
    None, True, False, -1, 0, 1, 2**31, 2**32, 2**63, 2**64, 10**400,
    1.5, -0.0, 1e308, float("nan"),
    float("inf"), "", "x", "0", "../../victim", "/dev/zero", ".", "a/b", "\0", "\ud800", "é" * 300,
    [], [[]], [None], {}, {"": None}, [0] * 1000,
]  # fmt: skip


hostile = st.sampled_from(HOSTILE).map(copy.deepcopy)


@st.composite
def spoiled(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes that differ from valid ones in a few places."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        first = draw(st.integers(0, len(content)))
        last = min(len(content), first + draw(st.sampled_from([0, 1, 2, 8, 100, 1 << 20])))
        match draw(st.sampled_from(["flip", "cut", "double", "move", "insert", "deep"])):
            case "flip":
                for place in range(first, min(last, first + 8)):
                    content[place] ^= draw(st.integers(1, 255))
            case "cut":
                del content[first:last]
            case "double":
                content[first:first] = content[first:last]
            case "move":
                piece = content[first:last]
                del content[first:last]
                place = draw(st.integers(0, len(content)))
                content[place:place] = piece
            case "insert":
                numbers = st.sampled_from([b"-1", b"1e999", b"NaN", b"4294967296", b"9" * 400])
                content[first:first] = draw(st.binary(max_size=12) | numbers)
            case "deep":
                content[first:last] = b"[" * draw(st.sampled_from([3, DEEP]))
    return bytes(content)


@st.composite
def spoiled_json(draw: st.DrawFn, tree: Any) -> Any:
    """A JSON value that differs from a valid one in a few places, still a JSON value."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        at, key = tree, None
        holders = []
        while isinstance(at, dict | list) and at and (not holders or draw(st.integers(0, 3))):
            key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            holders.append((at, key))
            at = at[key]
        if not holders:
            continue
        holder, key = holders[-1]
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                holder[key] = draw(hostile | st.integers() | st.floats())
            case "remove":
                del holder[key]
            case "add" if isinstance(holder, dict):
                holder[draw(st.sampled_from(["unknown", "checksum", ""]))] = draw(hostile)
            case "add":
                holder.append(draw(hostile))
    return tree


def spoiled_json_bytes(tree: Any) -> st.SearchStrategy[bytes]:
    """The bytes of :func:`spoiled_json`; a JSON file spoiled as text, too."""
    whole = json.dumps(tree).encode()
    texts = spoiled_json(tree).map(lambda one: json.dumps(one).encode("utf-8", "surrogatepass"))
    return texts | spoiled(whole)


NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 20) | st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 3) | st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(0, 9, width=32) | st.floats(width=32),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_ENUM: st.integers(0, 3)
    | st.integers(1, 2)
    | st.integers(-(2**31), 2**31 - 1),
}
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ["d1", "v1", "a river", "\0", "\u202e", "{", "[" * 2000, "x" * 70_000]
)


@st.composite
def messages(draw: st.DrawFn, kind: Descriptor, depth: int = 0) -> Message:
    """A message of a type, each field perhaps set, to anything that its type holds."""
    message = GetMessageClass(kind)()
    if kind.full_name == SparseVector.DESCRIPTOR.full_name and draw(st.booleans()):
        entries = draw(st.dictionaries(st.integers(0, 600), st.floats(0, 9, width=32), max_size=30))
        return SparseVector(indices=entries, values=entries.values())
    chosen = {draw(st.sampled_from([one.name for one in part.fields])) for part in kind.oneofs}
    for field in kind.fields:
        optional = field.containing_oneof is None or len(field.containing_oneof.fields) == 1
        wanted = draw(st.integers(0, 5)) if optional else field.name in chosen
        if not wanted or (field.message_type is not None and depth == DEEPEST):
            continue
        held = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
            pairs = st.dictionaries(_value(key, depth), _value(value, depth), max_size=3)
            for name, one in draw(pairs).items():
                if value.message_type is not None:
                    held[name].CopyFrom(one)
                else:
                    held[name] = one
        elif field.is_repeated:
            few = st.lists(_value(field, depth), max_size=4)
            held.extend(draw(few if field.cpp_type not in NUMBERS else few | _many(field)))
        elif field.message_type is not None:
            held.CopyFrom(draw(_value(field, depth)))
        else:
            setattr(message, field.name, draw(_value(field, depth)))
    return message


def message_bytes(kind: Descriptor) -> st.SearchStrategy[bytes]:
    """A serialized message of a type; one in four is spoiled."""
    whole = messages(kind).map(lambda one: one.SerializeToString())
    return whole | whole | whole | whole.flatmap(spoiled)


def _value(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(field.message_type, depth + 1)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=40)
    return TEXTS if field.type == FieldDescriptor.TYPE_STRING else NUMBERS[field.cpp_type]


def _many(field: FieldDescriptor) -> st.SearchStrategy[list[Any]]:
    """A list of thousands, so that caps of counts are met."""
    return NUMBERS[field.cpp_type].flatmap(
        lambda one: st.sampled_from([2048, 2049, 5000]).map(lambda count: [one] * count)
    )
