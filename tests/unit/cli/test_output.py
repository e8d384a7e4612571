"""What people read on a terminal is what was typed: no markup, no emoji in prompts and names."""

from __future__ import annotations

import pytest

from farm.cli.errors import report
from farm.cli.output import say, styled_state, table
from farm.errors import BadRequest, Problem

HOSTILE = "a [bold]fox[/nothing] <lora:candy:1> :smile: [/]"


def test_lines_and_cells_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    say((HOSTILE, "bold"), " ", styled_state("failed"))
    table(("prompt",), [(HOSTILE,), (styled_state("running"),)], empty="")
    printed = capsys.readouterr().out
    assert printed.count(HOSTILE) == 3
    assert "failed" in printed
    assert "running" in printed


def test_an_empty_table_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    table(("prompt",), [], empty="No jobs yet.")
    assert capsys.readouterr().out == "No jobs yet.\n"


def test_a_mistake_in_a_batch_names_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = Problem(code="bad_type", message="steps is 'x'", hint="give a number", pointer="/rows/1/steps")
    assert report(BadRequest.of((wrong,))) == 2
    assert capsys.readouterr().err == "farm: row 2: steps is 'x': give a number\n"
