"""Rows of batches: every mistake is told with its row, and nothing shifts the rows behind it."""

from __future__ import annotations

import contextlib
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.errors import BadRequest, Problem
from farm.web.rows import MAX_ROW_BYTES, UNREADABLE, csv_rows, ndjson


def test_lines_become_rows():
    rows = list(ndjson(io.BytesIO(b'{"prompt": "a"}\n\n  \n{"prompt": "b", "seed": 2}')))
    assert rows == [{"prompt": "a"}, {"prompt": "b", "seed": 2}]


def test_a_byte_order_mark_does_not_matter():
    assert list(ndjson(io.BytesIO(b'\xef\xbb\xbf{"prompt": "a"}\n'))) == [{"prompt": "a"}]
    assert list(csv_rows(io.BytesIO(b"\xef\xbb\xbfprompt\na\n"))) == [{"prompt": "a"}]


def test_lines_that_cannot_be_read_keep_their_number():
    rows = ndjson(io.BytesIO(b'{"prompt": "a"}\n{"prompt": \n[1]\n\xff\n{"prompt": "b"}\n'))
    assert list(rows) == [{"prompt": "a"}, UNREADABLE, UNREADABLE, UNREADABLE, {"prompt": "b"}]
    told = rows.problems((Problem(code="x", message="the stand-in is no job", pointer="/rows/1/prompt"),))
    assert [problem.pointer for problem in told] == ["/rows/1", "/rows/2", "/rows/3"]
    assert "line 2 is no JSON" in told[0].message
    assert "line 3 is no JSON object" in told[1].message
    assert all(problem.code == "unreadable_row" for problem in told)


def test_an_endless_line_costs_no_memory_and_is_refused():
    rows = ndjson(io.BytesIO(b'{"prompt": "' + b"a" * (3 * MAX_ROW_BYTES) + b'"}\n{"prompt": "b"}\n'))
    assert list(rows) == [UNREADABLE, {"prompt": "b"}]
    assert "longer than" in rows.unreadable[0].message


def test_csv_cells_are_fields_and_empty_cells_defaults():
    text = 'prompt,seed,tags\n"a, b",5,x y\nc,,\n\n'
    assert list(csv_rows(io.BytesIO(text.encode()))) == [
        {"prompt": "a, b", "seed": 5, "tags": ["x", "y"]},
        {"prompt": "c"},
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_of_any_spreadsheet_will_do(delimiter: str):
    text = f"prompt{delimiter}seed\na{delimiter}5\n"
    assert list(csv_rows(io.BytesIO(text.encode()))) == [{"prompt": "a", "seed": 5}]


def test_a_cell_quoted_against_formulas_is_read_back():
    assert list(csv_rows(io.BytesIO(b"prompt\n'=1+1\n'tis\n"))) == [{"prompt": "=1+1"}, {"prompt": "'tis"}]


@pytest.mark.parametrize("text", ["", "\n", ",,\n", "prompt,prompt\na,b\n"])
def test_a_first_row_without_field_names_is_refused(text: str):
    with pytest.raises(BadRequest, match="the first row"):
        csv_rows(io.BytesIO(text.encode()))


def test_csv_mistakes_have_their_row():
    rows = csv_rows(io.BytesIO(b'prompt,seed\na,1,2\n\xff,1\nb,3\n"open\n'))
    assert list(rows) == [UNREADABLE, UNREADABLE, {"prompt": "b", "seed": 3}, UNREADABLE]
    told = rows.problems(())
    assert [problem.pointer for problem in told] == ["/rows/0", "/rows/1", "/rows/3"]
    assert "3 cells" in told[0].message
    assert "no UTF-8" in told[1].message


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.text(max_size=8), st.text(max_size=20) | st.integers(), max_size=4), max_size=8
    )
)
def test_every_json_line_comes_back(rows: list[dict[str, object]]):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    assert list(ndjson(io.BytesIO(text.encode()))) == rows


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_crash_the_readers(data: bytes):
    list(ndjson(io.BytesIO(data)))
    with contextlib.suppress(BadRequest):
        list(csv_rows(io.BytesIO(data)))
