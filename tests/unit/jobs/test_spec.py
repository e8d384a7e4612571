"""Specs as people write them, matrices of them, and the page that lists their fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.errors import BadRequest
from farm.jobs.limits import Limits
from farm.jobs.matrix import expand_matrix
from farm.jobs.pages import decode_cursor, encode_cursor
from farm.jobs.reports import MAX_DISK, WorkerReport
from farm.jobs.spec import FIELDS, JobSpec, from_text, parse_spec
from farm.settings import Settings

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "job-fields.md"


def test_the_page_lists_every_field() -> None:
    page = PAGE.read_text()
    assert [name for name in FIELDS if f"`{name}`" not in page] == []


def test_limits_come_from_the_settings_of_the_same_names() -> None:
    limits = Limits.from_settings(Settings(max_steps=7, lora_apply_tags=-1, lora_linear_curves=True))
    assert (limits.max_steps, limits.apply_triggers, limits.linear_curves) == (7, -1, True)
    assert Limits() == Limits.from_settings(Settings())


@given(
    st.dictionaries(
        st.sampled_from((*FIELDS, "promt", "")), st.none() | st.integers() | st.text() | st.floats()
    )
)
def test_any_fields_are_a_spec_or_problems_with_pointers(raw: dict[str, Any]) -> None:
    refused = None
    try:
        parse_spec(raw, "/rows/3")
    except BadRequest as error:
        refused = error.problems
    assert refused is None or refused
    assert all(problem.pointer.startswith("/rows/3") and problem.message for problem in refused or ())


def test_a_kept_spec_reads_back_as_itself() -> None:
    spec = parse_spec({"prompt": "a", "guidance_scale": 7, "tags": ["x"]})
    assert JobSpec.model_validate(spec.model_dump()) == spec


def test_steps_of_both_passes_count() -> None:
    asked = {
        "prompt": "a",
        "steps": "6",
        "hr_scale": "1.5",
        "hr_steps": "4",
        "hr_strength": ".25",
        "fps": "12.5",
    }
    spec = parse_spec(from_text(asked))
    assert (spec.hr_scale, spec.hr_steps, spec.hr_strength, spec.fps) == (1.5, 4, 0.25, 12.5)
    assert spec.total_steps == 10
    assert spec.model_copy(update={"hr_scale": None}).total_steps == 6


def test_cells_that_are_no_numbers_stay_for_the_message() -> None:
    row = from_text({"prompt": "a", "steps": "many", "linear_curves": "true", "sampler": None})
    assert row == {"prompt": "a", "steps": "many", "linear_curves": True}
    with pytest.raises(BadRequest, match="steps is 'many', not a whole number"):
        parse_spec(row)


def test_a_matrix_combines_fields_and_places_in_the_prompt() -> None:
    rows = list(
        expand_matrix({"prompt": "a {animal} <lora:ink:{s}>"}, {"animal": ["fox", "cat"], "s": [0.5, 1], "seed": [1]}, most=9)
    )  # fmt: skip
    assert [row["prompt"] for row in rows] == [
        "a fox <lora:ink:0.5>", "a fox <lora:ink:1>", "a cat <lora:ink:0.5>", "a cat <lora:ink:1>",
    ]  # fmt: skip
    assert all(row["seed"] == 1 for row in rows)


@pytest.mark.parametrize(
    ("axes", "code"),
    [({"seed": []}, "empty_axis"), ({"color": ["red"]}, "unused_axis"), ({"seed": [1, 2], "steps": [1, 2]}, "too_many_rows")],
)  # fmt: skip
def test_a_matrix_that_makes_no_sense_is_refused_before_its_first_row(
    axes: dict[str, Any], code: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        expand_matrix({"prompt": "a fox"}, axes, most=3)
    assert (caught.value.problems[0].code if caught.value.problems else caught.value.code) == code


@given(st.text(max_size=40))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    code, place = "", None
    try:
        place = decode_cursor(text, 1)
    except BadRequest as error:
        code = error.code
    assert code in ("", "bad_cursor")
    assert place is None or len(place) == 1


@given(st.lists(st.text() | st.integers(), min_size=2, max_size=2))
def test_cursors_read_back(place: list[Any]) -> None:
    assert decode_cursor(encode_cursor(*place), 2) == place


def test_reports_survive_json_and_later_versions() -> None:
    report = WorkerReport(models=("m",), disk=tuple(str(n) for n in range(600)), seconds_per_step={"k": 0.5})
    kept = report.as_dict()
    assert kept["disk"] == [str(n) for n in range(600 - MAX_DISK, 600)]
    assert WorkerReport.from_dict({**kept, "new": 1}).seconds_per_step == {"k": 0.5}
    assert WorkerReport.from_dict({}) == WorkerReport()
