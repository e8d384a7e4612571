"""The table of transitions is whole, and its page tells it as it is."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import CheckConstraint

from farm.db.models import Base
from farm.jobs.states import OPEN, PRIORITIES, PRIORITY_NAMES, TERMINAL, TRANSITIONS, State

PAGE = Path(__file__).parents[3] / "docs" / "explain" / "states.md"


def test_success_is_final_and_every_other_state_can_be_left() -> None:
    left = {state for transition in TRANSITIONS.values() for state in transition.sources}
    assert left == set(State) - {State.SUCCEEDED}


def test_every_state_can_be_reached() -> None:
    assert {state for transition in TRANSITIONS.values() for state in transition.targets} == set(State)


def test_whatever_leads_back_to_the_queue_can_end_a_marked_job() -> None:
    for transition in TRANSITIONS.values():
        if State.QUEUED in transition.targets and transition.name not in ("submit", "retry"):
            assert State.CANCELLED in transition.targets, transition.name


def test_states_of_the_table_and_of_the_database_are_the_same() -> None:
    checks = {
        str(check.name): str(check.sqltext)
        for check in Base.metadata.tables["jobs"].constraints
        if isinstance(check, CheckConstraint)
    }
    assert all(f"'{state}'" in checks["ck_jobs_state"] for state in State)
    assert set(State) == TERMINAL | OPEN
    assert {PRIORITY_NAMES[number] for number in PRIORITIES.values()} == set(PRIORITIES)


def test_the_page_lists_every_transition_with_its_guard() -> None:
    page = PAGE.read_text()
    for transition in TRANSITIONS.values():
        assert f"| `{transition.name}` |" in page
        assert transition.guard in page
