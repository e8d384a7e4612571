"""Adapters and models in memory."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.worker.memory import AdapterCache, ModelCache


@dataclass
class Thing:
    name: str
    bytes: int = 10
    closed: bool = False

    def close(self) -> None:
        self.closed = True


def touch(cache: AdapterCache[Thing], name: str, size: int = 10) -> bool:
    with cache.use(name, "model", lambda: Thing(name, size)) as (thing, hit):
        assert thing.name == name
        return hit


def test_least_recently_used_goes_first_by_count() -> None:
    cache: AdapterCache[Thing] = AdapterCache(2, 1000)
    hits = [touch(cache, name) for name in "ababcaab"]
    assert hits == [False, False, True, True, False, False, True, False]
    assert cache.hashes() == ("a", "b")


def test_least_recently_used_goes_first_by_bytes() -> None:
    cache: AdapterCache[Thing] = AdapterCache(10, 100)
    touch(cache, "a", 40)
    touch(cache, "b", 40)
    touch(cache, "c", 60)
    assert cache.hashes() == ("b", "c")
    assert cache.bytes() == 100


def test_one_content_for_two_models_is_two_adapters() -> None:
    cache: AdapterCache[Thing] = AdapterCache(10, 1000)
    for model in ("m1", "m2"):
        with cache.use("a", model, lambda: Thing("a")) as (_, hit):
            assert not hit
    assert cache.hashes() == ("a",)


def test_what_a_job_uses_stays_even_beyond_the_limits() -> None:
    cache: AdapterCache[Thing] = AdapterCache(0, 0)
    with cache.use("a", "m", lambda: Thing("a")), cache.use("b", "m", lambda: Thing("b")):
        assert cache.hashes() == ("a", "b")
        assert cache.drop_unused() == 0
    assert cache.hashes() == ()


def test_dropped_adapters_are_read_again_and_their_users_keep_them() -> None:
    cache: AdapterCache[Thing] = AdapterCache(5, 1000)
    with cache.use("a", "m", lambda: Thing("old")) as (old, _):
        cache.drop("a")
        with cache.use("a", "m", lambda: Thing("new")) as (new, hit):
            assert (old.name, new.name, hit) == ("old", "new", False)
    assert cache.hashes() == ("a",)


def test_a_load_that_fails_leaves_nothing() -> None:
    cache: AdapterCache[Thing] = AdapterCache(5, 1000)

    def fail() -> Thing:
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"), cache.use("a", "m", fail):
        pass
    assert cache.hashes() == ()
    assert not touch(cache, "a")


def test_many_threads_load_once() -> None:
    cache: AdapterCache[Thing] = AdapterCache(5, 1000)
    barrier, loads = threading.Barrier(8), []

    def load() -> Thing:
        loads.append(1)
        return Thing("a")

    def work(_: int) -> bool:
        barrier.wait()
        with cache.use("a", "m", load) as (_, hit):
            return hit

    with ThreadPoolExecutor(8) as pool:
        hits = list(pool.map(work, range(8)))
    assert len(loads) == 1
    assert hits.count(False) == 1


@given(
    st.integers(0, 4),
    st.integers(0, 60),
    st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=20),
)
def test_limits_hold_whenever_nothing_is_used(count: int, size: int, uses: list[tuple[str, bool]]) -> None:
    cache: AdapterCache[Thing] = AdapterCache(count, size)
    with ExitStack() as held:
        for name, hold in uses:
            use = cache.use(name, "m", partial(Thing, name, 10 * (ord(name) - 96)))
            if hold:
                held.enter_context(use)
            else:
                with use:
                    pass
    assert len(cache.hashes()) <= count
    assert cache.bytes() <= size


def test_models_make_room_before_the_next_is_loaded() -> None:
    cache: ModelCache[Thing] = ModelCache(1)
    first, hit = cache.get("a", lambda: Thing("a"))
    assert not hit
    assert cache.get("a", lambda: Thing("other")) == (first, True)

    def load() -> Thing:
        assert first.closed
        assert cache.hot() == ()
        return Thing("b")

    cache.get("b", load)
    assert cache.hot() == ("b",)
    assert cache.holds("b")
    assert not cache.holds("a")


def test_several_models_in_order_of_use() -> None:
    cache: ModelCache[Thing] = ModelCache(2)
    for key in "abac":
        cache.get(key, lambda key=key: Thing(key))  # type: ignore[misc]
    assert cache.hot() == ("a", "c")
    cache.drop_others("a")
    assert cache.hot() == ("a",)
    cache.drop("a")
    cache.drop("a")
    assert cache.hot() == ()


def test_a_model_that_does_not_load_leaves_room() -> None:
    cache: ModelCache[Thing] = ModelCache(1)

    def fail() -> Thing:
        raise MemoryError

    with pytest.raises(MemoryError):
        cache.get("a", fail)
    assert cache.hot() == ()


def ready(cache: AdapterCache[Thing], name: str, size: int = 10) -> bool:
    return cache.make_ready(name, "model", lambda: Thing(name, size))


def test_what_is_made_ready_is_hot_for_its_job_and_bounded() -> None:
    cache: AdapterCache[Thing] = AdapterCache(8, 1000)
    for name in "abcdefgh":
        touch(cache, name)
    assert [ready(cache, name) for name in "wxyz"] == [True] * 4
    assert not ready(cache, "z")
    # two of eight may lie unused; they took the places of the coldest
    assert cache.hashes() == ("c", "d", "e", "f", "g", "h", "y", "z")
    assert touch(cache, "y")
    # used, it is one like the others
    assert ready(cache, "v")
    assert ready(cache, "u")
    assert cache.hashes() == ("d", "e", "f", "g", "h", "y", "v", "u")


def test_what_is_made_ready_pushes_out_nothing_in_use_and_no_more_than_its_share_of_bytes() -> None:
    cache: AdapterCache[Thing] = AdapterCache(2, 100)
    with cache.use("a", "model", lambda: Thing("a")), cache.use("b", "model", lambda: Thing("b")):
        assert not ready(cache, "x")
        assert cache.hashes() == ("a", "b")
    assert not ready(cache, "large", 26)
    assert cache.hashes() == ("a", "b")
    assert not ready(AdapterCache(0, 100), "x")


def test_a_job_that_asks_for_what_is_being_made_ready_waits_for_it() -> None:
    cache: AdapterCache[Thing] = AdapterCache(4, 1000)
    begun, go_on = threading.Event(), threading.Event()

    def load() -> Thing:
        begun.set()
        assert go_on.wait(20)
        return Thing("a")

    with ThreadPoolExecutor(2) as pool:
        early = pool.submit(cache.make_ready, "a", "model", load)
        assert begun.wait(20)
        job = pool.submit(touch, cache, "a")
        go_on.set()
        assert early.result(20)
        assert job.result(20)
