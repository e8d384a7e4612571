"""Object names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.store import keys

IDS = st.text("abcXYZ019_-", min_size=1, max_size=30)


@given(IDS, IDS, st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from(["png", "webm", "webp"]))
def test_result_keys_round_trip(owner: str, job: str, attempt: int, index: int, ending: keys.Ending) -> None:
    key = keys.parse_result(keys.result(owner, job, attempt, index, ending))
    assert key == keys.ResultKey(owner_id=owner, job_id=job, attempt=attempt, index=index)


@pytest.mark.parametrize("part", ["", "..", "a/b", "a\\b", "a\0", "ü", "a b", "a\n", "x" * 101])
def test_parts_that_could_lead_elsewhere_are_refused(part: str) -> None:
    with pytest.raises(ValueError, match="key"):
        keys.upload(part)
    with pytest.raises(ValueError, match="key"):
        keys.result("user_1", part, 1, 0)


@pytest.mark.parametrize("sha256", ["", "AB" * 32, "ab" * 31, "../" + "a" * 61, "ab" * 32 + "\n"])
def test_only_a_sha256_names_a_blob(sha256: str) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        keys.blob(sha256)
