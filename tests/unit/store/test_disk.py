"""The disk cache: only whole files, each fetched once, least recently used first to go, nothing in use evicted."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farm.errors import NoRoom, Permanent, Transient
from farm.store.disk import CacheEntry, DiskCache


class StepClock:
    """Each look is a second later, so that the order of use is the order of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        self.seconds += 1
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Source:
    """A store in memory that counts."""

    def __init__(self) -> None:
        self.fetches = 0
        self.lock = threading.Lock()

    def of(self, *answers: bytes) -> Callable[[Path], None]:
        """Writes the answers one after another, the last one for ever."""
        left = list(answers)

        def fetch(path: Path) -> None:
            with self.lock:
                self.fetches += 1
                data = left.pop(0) if len(left) > 1 else left[0]
            path.write_bytes(data)

        return fetch


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "cache", 1000, StepClock())


def take(cache: DiskCache, source: Source, data: bytes) -> bool:
    """Get and let go; whether it was a hit."""
    with cache.get(sha(data), len(data), source.of(data)) as entry:
        assert entry.path.read_bytes() == data
        return entry.hit


def test_the_second_time_is_a_hit(cache: DiskCache, source: Source) -> None:
    assert not take(cache, source, b"ink")
    assert take(cache, source, b"ink")
    assert source.fetches == 1


def test_a_damaged_download_is_fetched_again(cache: DiskCache, source: Source) -> None:
    good = b"0123456789"
    with cache.get(sha(good), 10, source.of(b"012345678X", good)) as entry:
        assert entry.path.read_bytes() == good
    assert source.fetches == 2


@pytest.mark.parametrize("bad", [b"", b"01234", b"012345678X", b"0123456789+"])
def test_what_is_damaged_twice_fails_with_its_name_and_is_never_seen(
    cache: DiskCache, source: Source, bad: bytes
) -> None:
    good = b"0123456789"
    with pytest.raises(Permanent, match=sha(good)):
        cache.get(sha(good), 10, source.of(bad))
    assert source.fetches == 2
    assert cache.hashes() == ()
    assert not [path for path in (cache.folder / "tmp").rglob("*") if path.is_file() and path.name != "lock"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_file_damaged_on_disk_is_fetched_again(cache: DiskCache, source: Source, damage: str) -> None:
    good = b"0123456789"
    take(cache, source, good)
    path = cache.path(sha(good))
    path.write_bytes({"truncate": good[:5], "flip": b"012345678X", "empty": b""}[damage])
    assert not take(cache, source, good)
    assert source.fetches == 2


def test_a_new_process_hashes_what_it_finds(tmp_path: Path, source: Source) -> None:
    take(DiskCache(tmp_path, 1000), source, b"ink")
    path = next((tmp_path / "blobs").rglob(sha(b"ink")))
    status = path.stat()
    path.write_bytes(b"INK")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not take(DiskCache(tmp_path, 1000), source, b"ink")


def test_discarded_files_are_fetched_again(cache: DiskCache, source: Source) -> None:
    take(cache, source, b"ink")
    cache.discard(sha(b"ink"))
    cache.discard(sha(b"ink"))
    assert not take(cache, source, b"ink")


def test_many_threads_fetch_one_file_once(cache: DiskCache, source: Source) -> None:
    data = b"x" * 500
    barrier = threading.Barrier(16)

    def work(_: int) -> CacheEntry:
        barrier.wait()
        return cache.get(sha(data), 500, source.of(data))

    with ThreadPoolExecutor(16) as pool:
        entries = list(pool.map(work, range(16)))
    assert source.fetches == 1
    assert sum(not entry.hit for entry in entries) == 1
    for entry in entries:
        entry.close()


def test_two_processes_fetch_one_file_once(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib\n"
        "from farm.store.disk import DiskCache\n"
        "def fetch(path):\n"
        "    time.sleep(0.3); path.write_bytes(b'ink'); print('fetched')\n"
        "DiskCache(pathlib.Path(sys.argv[1]), 1000).get(sys.argv[2], 3, fetch)\n"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), sha(b"ink")], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [child.communicate()[0] for child in children]
    assert sorted(said) == [b"", b"fetched\n"]


def test_the_least_recently_used_goes_first(cache: DiskCache, source: Source) -> None:
    a, b, c = b"a" * 400, b"b" * 400, b"c" * 400
    take(cache, source, a)
    take(cache, source, b)
    take(cache, source, a)
    take(cache, source, c)
    assert cache.hashes() == (sha(c), sha(a))


def test_what_is_in_use_stays(cache: DiskCache, source: Source) -> None:
    a, b = b"a" * 900, b"b" * 900
    held = cache.get(sha(a), 900, source.of(a))
    take(cache, source, b)
    assert set(cache.hashes()) == {sha(a), sha(b)}
    held.close()
    take(cache, source, b"c")
    assert sha(a) not in cache.hashes()


def test_what_another_process_uses_stays_until_it_dies(cache: DiskCache, source: Source) -> None:
    a = b"a" * 900
    take(cache, source, a)
    script = (
        "import sys, pathlib\n"
        "from farm.store.disk import DiskCache\n"
        "entry = DiskCache(pathlib.Path(sys.argv[1]), 1000).get(sys.argv[2], 900, None)\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(cache.folder), sha(a)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    take(cache, source, b"b" * 900)
    assert sha(a) in cache.hashes()
    child.kill()
    child.communicate()
    take(cache, source, b"c")
    assert sha(a) not in cache.hashes()


def test_a_failed_fetch_leaves_nothing(cache: DiskCache) -> None:
    def fetch(path: Path) -> None:
        path.write_bytes(b"half")
        raise Transient("away")

    with pytest.raises(Transient):
        cache.get(sha(b"whole"), 5, fetch)
    assert cache.hashes() == ()
    assert cache.total_bytes() == 0


def test_a_full_disk_evicts_and_tries_once_more(cache: DiskCache, source: Source) -> None:
    take(cache, source, b"a" * 100)
    calls = []

    def fetch(path: Path) -> None:
        calls.append(cache.total_bytes())
        if cache.total_bytes():
            raise OSError(errno.ENOSPC, "no space", str(path))
        path.write_bytes(b"new")

    cache.get(sha(b"new"), 3, fetch).close()
    assert calls == [100, 0]


def test_a_disk_full_of_other_things_is_told(cache: DiskCache) -> None:
    def fetch(path: Path) -> None:
        raise OSError(errno.ENOSPC, "no space", str(path))

    with pytest.raises(Transient, match="full") as told:
        cache.get(sha(b"new"), 3, fetch)
    assert told.value.code == "disk_full"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_g12_a_disk_that_cannot_be_written_to_is_told(cache: DiskCache, number: int) -> None:
    def fetch(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    with pytest.raises(NoRoom, match="cannot be written to") as told:
        cache.get(sha(b"new"), 3, fetch)
    assert (told.value.code, told.value.needed) == ("disk_closed", 3)


def test_g12_a_file_larger_than_the_whole_disk_is_refused_for_good(cache: DiskCache, source: Source) -> None:
    with pytest.raises(Permanent, match="larger than the whole disk") as told:
        cache.get(sha(b"x"), 1 << 62, lambda path: None)
    assert told.value.code == "disk_too_small"


def test_g12_room_is_looked_for_and_leaves_nothing(small_disk: Path) -> None:
    cache = DiskCache(small_disk, 1 << 30)
    before = shutil.disk_usage(small_disk).free
    assert cache.has_room(0)
    assert cache.has_room(100_000)
    assert not cache.has_room(before + 1)
    assert shutil.disk_usage(small_disk).free == before
    (small_disk / "ballast").write_bytes(bytes(before - 50_000))
    assert not cache.has_room(100_000)
    cache.close()


def test_g12_a_folder_that_was_emptied_under_a_cache_is_made_again(cache: DiskCache, source: Source) -> None:
    take(cache, source, b"a")
    for folder in cache.folder.iterdir():
        shutil.rmtree(folder)
    assert cache.hashes() == ()
    take(cache, source, b"a")
    with cache.temporary_folder() as folder:
        assert folder.is_dir()
    assert cache.has_room(10)
    assert cache.hashes() == (sha(b"a"),)


def test_what_a_killed_process_left_is_swept_and_what_lives_is_not(tmp_path: Path) -> None:
    script = (
        "import os, sys, pathlib\n"
        "from farm.store.disk import DiskCache\n"
        "def fetch(path):\n"
        "    path.write_bytes(b'half'); print('half', flush=True); os.kill(os.getpid(), 9)\n"
        "DiskCache(pathlib.Path(sys.argv[1]), 1000).get('ab' * 32, 9, fetch)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, check=False)
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    first = DiskCache(tmp_path, 1000)
    second = DiskCache(tmp_path, 1000)
    assert len(list((tmp_path / "tmp").iterdir())) == 2
    first.close()
    second.close()
    assert not list((tmp_path / "tmp").iterdir())


def test_room_for_what_may_not_be_needed_is_made_of_idle_files_alone(tmp_path: Path, source: Source) -> None:
    # reading a file sets its time of use by the machine's own clock
    cache = DiskCache(tmp_path, 1000)
    old, new = b"o" * 400, b"n" * 400
    take(cache, source, old)
    take(cache, source, new)
    assert cache.try_room(200, 3600)
    assert not cache.try_room(400, 3600)
    assert set(cache.hashes()) == {sha(old), sha(new)}
    assert cache.holds(sha(old), 400)
    assert not cache.holds(sha(old), 399)
    with cache.get(sha(old), 400, source.of(old)):
        assert not cache.try_room(1000, 0)
        assert cache.hashes() == (sha(old),)
    assert cache.try_room(1000, 0)
    assert cache.hashes() == ()


def test_a_lock_that_is_held_is_not_waited_for(cache: DiskCache) -> None:
    with cache.try_locked("early") as first, cache.try_locked("early") as second:
        assert (first, second) == (True, False)
    with cache.try_locked("early") as again:
        assert again


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    limit=st.integers(0, 300),
    uses=st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=25),
)
def test_it_behaves_as_a_list_in_order_of_use(
    tmp_path_factory: pytest.TempPathFactory, limit: int, uses: list[tuple[int, bool, bool]]
) -> None:
    """Against a model: (file, hold it, damage it on disk before)."""
    cache = DiskCache(tmp_path_factory.mktemp("cache"), limit, StepClock())
    order: list[int] = []
    held: dict[int, CacheEntry] = {}
    for number, hold, damage in uses:
        size = 10 * (number + 1)
        data = bytes([number]) * size
        if damage and number in order and number not in held:
            cache.path(sha(data)).write_bytes(b"?" * size)
            order.remove(number)
            expect_hit = False
        else:
            expect_hit = number in order
        entry = cache.get(sha(data), size, Source().of(data))
        assert entry.hit == expect_hit
        assert entry.path.read_bytes() == data
        if not expect_hit:
            for old in list(order):
                if sum(10 * (n + 1) for n in order) + size <= limit:
                    break
                if old not in held:
                    order.remove(old)
        order = [n for n in order if n != number] + [number]
        if hold and number not in held:
            held[number] = entry
        else:
            entry.close()
        assert list(cache.hashes()) == [sha(bytes([n]) * 10 * (n + 1)) for n in reversed(order)]
    for entry in held.values():
        entry.close()
    cache.close()
