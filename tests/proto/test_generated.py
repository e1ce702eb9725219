import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROTO = Path(__file__).parents[2] / "proto"
MODULES = [
    "ciff_pb2.py",
    "ciff_pb2.pyi",
    "retrieval_pb2.py",
    "retrieval_pb2.pyi",
    "retrieval_pb2_grpc.py",
]


def test_committed_modules_are_what_the_generator_writes(tmp_path):
    pytest.importorskip("grpc_tools")
    subprocess.run([sys.executable, PROTO / "generate.py", tmp_path], check=True)
    for name in MODULES:
        assert (tmp_path / "csplade/v1" / name).read_text() == (
            PROTO / "csplade/v1" / name
        ).read_text(), name


def test_every_message_field_rpc_and_value_has_a_comment():
    lines = (PROTO / "csplade/v1/retrieval.proto").read_text().splitlines()
    declared = re.compile(r"^\s*(message|service|enum|rpc)\s|^\s*[\w .<>,]+\s=\s\d+")
    bare = [
        line.strip()
        for before, line in itertools.pairwise(lines)
        if declared.match(line) and not before.strip().startswith("//")
    ]
    assert bare == []
    assert sum(bool(declared.match(line)) for line in lines) > 100


def test_enum_zero_is_unspecified():
    from csplade.v1 import retrieval_pb2 as pb

    for enum in pb.DESCRIPTOR.enum_types_by_name.values():
        assert enum.values_by_number[0].name.endswith("_UNSPECIFIED")
