from __future__ import annotations

import io
import json

import pytest

from shared.services.cvm_file import CvmFile, FileFormat, read_cvm_file


HEADER = "id,name,workspace,host,vm_uuid,status,gpu_rental_order\n"
LINE = {"id": "cvm_1", "name": "one", "workspace": "blue"}


def read_csv(content: str | bytes) -> CvmFile:
    raw = content.encode() if isinstance(content, str) else content
    return read_cvm_file(io.BytesIO(raw), FileFormat.CSV)


def read_jsonl(*lines: object) -> CvmFile:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    return read_cvm_file(io.BytesIO("\n".join(texts).encode()), FileFormat.JSONL)


def told(file: CvmFile) -> list[str]:
    return [str(problem) for problem in file.problems]


def test_csv() -> None:
    file = read_csv(HEADER + "cvm_1,one,blue,h1,vm-1,running,\n\ncvm_2,two,red,,,,order\n")
    assert told(file) == []
    first, second = file.records
    assert (first.line, first.hash_id, first.name, first.workspace) == (2, "cvm_1", "one", "blue")
    assert (first.host, first.vm_uuid, first.status) == ("h1", "vm-1", "running")
    assert (first.gpu_rental_order, first.keeps_gpu_rental_order) == (None, False)
    assert (second.line, second.host, second.vm_uuid, second.status) == (4, None, None, None)
    assert second.gpu_rental_order == "order"


def test_csv_with_byte_order_mark_any_line_ends_and_columns_in_any_order() -> None:
    file = read_csv("\ufeffname, workspace,id\r\none,blue,cvm_1\r\n")
    assert told(file) == []
    assert file.records[0].hash_id == "cvm_1"
    assert file.records[0].keeps_gpu_rental_order


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("id,name", "the header has no workspace"),
        ("id,name,workspace,id", "the header has a column twice"),
        ("id,name,workspace,uuid", "unknown columns 'uuid'; the header may have id, name,"),
        ("cvm_1,one,blue", "unknown columns 'cvm_1', 'one', 'blue'"),
        ('"id,name', "is not CSV: unexpected end of data"),
    ],
)
def test_csv_header_that_cannot_be_used(header: str, problem: str) -> None:
    file = read_csv(header + "\ncvm_1,one,blue\n")
    assert file.records == []
    assert len(file.problems) == 1
    assert told(file)[0].startswith(f"line 1: {problem}")


def test_csv_lines_keep_their_numbers() -> None:
    file = read_csv(
        'id,name,workspace\ncvm_1,"a\nb",blue\ncvm_2,c\ncvm_3,"d"e,blue\ncvm_4,f,blue\n'
    )
    assert told(file) == [
        "line 2: name has a control character",
        "line 4: has 2 cells, the header has 3",
        "line 5: is not CSV: ',' expected after '\"'",
    ]
    assert [(record.line, record.hash_id) for record in file.records] == [(6, "cvm_4")]


def test_what_is_not_utf8() -> None:
    file = read_csv(b"id,name,workspace\ncvm_1,gr\xfcn,blue\ncvm_2,ok,blue\n")
    assert told(file) == ["line 2: name is not valid UTF-8"]
    assert [record.hash_id for record in file.records] == ["cvm_2"]


def test_utf16_is_told_apart() -> None:
    assert told(read_csv(HEADER.encode("utf-16")))[0].startswith("line 1: unknown columns")


def test_empty_files() -> None:
    for file in (read_csv(""), read_csv(HEADER), read_jsonl("", "  ")):
        assert (file.records, file.problems) == ([], [])


def test_jsonl() -> None:
    file = read_jsonl(
        LINE, "", {**LINE, "id": "cvm_2", "host": "h", "vm_uuid": "v", "status": None}
    )
    assert told(file) == []
    assert [(record.line, record.host) for record in file.records] == [(1, None), (3, "h")]
    assert file.records[0].keeps_gpu_rental_order
    assert not read_jsonl({**LINE, "gpu_rental_order": None}).records[0].keeps_gpu_rental_order


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "is not JSON: Expecting property name enclosed in double quotes at character 2"),
        ("[" * 100_000, "is not JSON that can be read: a number or its nesting goes too far"),
        ('{"id": ' + "1" * 5000 + "}", "is not JSON that can be read"),
        ("[]", "is not a JSON object"),
        ("null", "is not a JSON object"),
        ({**LINE, "uuid": "x"}, "unknown field 'uuid'"),
        ({"id": "cvm_1"}, "name is missing; workspace is missing"),
        ({**LINE, "name": ""}, "name is missing"),
        ({**LINE, "name": None}, "name is missing"),
        ({**LINE, "name": []}, "name must be a string"),
        ({**LINE, "host": 0}, "host must be a string"),
        ({**LINE, "status": False}, "status must be a string"),
        ({**LINE, "name": "a\x00"}, "name has a control character"),
        ({**LINE, "name": "a\ud800"}, "name is not valid UTF-8"),
        ({**LINE, "gpu_rental_order": "\ud800"}, "gpu_rental_order is not valid UTF-8"),
        ({**LINE, "name": "a" * 201}, "name has 201 characters, at most 200 are allowed"),
        ({**LINE, "id": "cvm_"}, "id 'cvm_' must be 'cvm_' and 1 to 60 of"),
        ({**LINE, "id": "cvm_" + "a" * 61}, "id 'cvm_aaa"),
        ({**LINE, "id": "vm_1"}, "id 'vm_1' must be"),
        ({**LINE, "id": "cvm_1\n"}, "id 'cvm_1\\n' must be"),
        ({**LINE, "id": "cvm_٣"}, "id 'cvm_٣' must be"),
        ({**LINE, "host": "h", "vm_uuid": "a/b"}, "vm_uuid 'a/b' must be"),
        ({**LINE, "host": "h", "vm_uuid": "a" * 65}, "vm_uuid 'aaa"),
        ({**LINE, "workspace": "a b"}, "workspace 'a b' must be a workspace's name"),
        ({**LINE, "host": "h\ud800"}, "host 'h\\ud800' must be a host's name"),
        ({**LINE, "status": "very well"}, "status 'very well' must be"),
        ({**LINE, "vm_uuid": "v"}, "vm_uuid without host"),
    ],
)
def test_bad_line(line: object, problem: str) -> None:
    file = read_jsonl({**LINE, "id": "cvm_before"}, line, {**LINE, "id": "cvm_after"})
    assert len(file.problems) == 1
    assert told(file)[0].startswith(f"line 2: {problem}")
    assert told(file)[0].isprintable()
    assert [record.line for record in file.records] == [1, 3]


def test_longest_that_fit() -> None:
    line = {"id": "cvm_" + "a" * 60, "name": "é" * 200, "workspace": "w" * 63}
    assert told(read_jsonl({**line, "host": "h", "vm_uuid": "v" * 64})) == []


def test_twice_in_a_file() -> None:
    vm = {"host": "h", "vm_uuid": "v"}
    file = read_jsonl(
        {**LINE, **vm},
        LINE,
        {**LINE, **vm, "id": "cvm_2"},
        {**LINE, **vm, "id": "cvm_3", "host": "other"},
    )
    assert told(file) == [
        "line 2: id cvm_1 is on line 1 already",
        "line 3: vm_uuid v on host h is on line 1 already",
    ]
