"""The script that takes terms out of guards still finds them, and what it makes of the code still is code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tools.mutate_guards import MODULES, REDUNDANT, TESTS, Term, terms, without

ROOT = Path(__file__).parents[2]
FOUND = [term for path in MODULES for term in terms(path, (ROOT / path).read_text())]
#: functions that change a job or a lease, and how many terms guard each at least
GUARDED = {
    "assign_all": 6, "claim": 5, "heartbeat": 3, "hand_back": 3, "cancelled": 2, "unassign": 4, "lose": 6, "runs": 3,
    "cancel": 5, "cancel_batch": 6, "retry": 3, "retry_failed": 4, "set_priority": 3, "take": 3, "renew": 3, "release": 3,
}  # fmt: skip


@pytest.mark.parametrize("function", GUARDED)
def test_the_terms_of_every_guard_are_found(function: str) -> None:
    assert len([term for term in FOUND if term.function == function]) >= GUARDED[function]


def test_each_term_can_be_taken_out_alone() -> None:
    for term in FOUND:
        source = (ROOT / term.path).read_text()
        changed = without(source, term)
        ast.parse(changed)
        place = (term.line, term.column)
        left = [(item.line, item.column, item.text) for item in terms(term.path, changed)]
        assert (*place, term.text) not in left
        assert len(changed.splitlines()) <= len(source.splitlines())


def test_what_is_called_redundant_is_there_and_so_are_the_tests() -> None:
    assert {(term.function, term.text) for term in FOUND} >= set(REDUNDANT)
    assert all((ROOT / test).is_file() for test in TESTS)
    assert isinstance(FOUND[0], Term)
