"""Model folders of hard links."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from farm.errors import Permanent
from farm.store.disk import DiskCache
from farm.store.trees import ManifestFile, manifest_sha256, open_tree, whole_trees

FILES = {
    "model_index.json": b"{}",
    "unet/weights": b"u" * 300,
    "vae/weights": b"v" * 200,
    "vae/copy": b"v" * 200,
}
BY_HASH = {hashlib.sha256(data).hexdigest(): data for data in FILES.values()}
MANIFEST = [
    ManifestFile(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    for path, data in FILES.items()
]


def fetch(sha256: str, path: Path) -> None:
    path.write_bytes(BY_HASH[sha256])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "cache", 1000)


def test_the_folder_looks_as_it_was_registered_and_costs_nothing_twice(cache: DiskCache) -> None:
    with open_tree(cache, MANIFEST, fetch) as tree:
        assert contents(tree.path) == FILES
        assert not tree.hit
        assert tree.bytes_fetched == 2 + 300 + 200
        inodes = {path.stat().st_ino for path in tree.path.rglob("*") if path.is_file()}
        assert inodes == {cache.path(sha256).stat().st_ino for sha256 in BY_HASH}
    with open_tree(cache, MANIFEST, fetch) as again:
        assert again.hit
        assert again.path == tree.path


def test_models_that_lie_here_whole_are_known_by_the_hash_of_their_manifest(cache: DiskCache) -> None:
    key = manifest_sha256((file.path, file.sha256) for file in reversed(MANIFEST))
    assert whole_trees(cache) == ()
    open_tree(cache, MANIFEST, fetch).close()
    assert whole_trees(cache) == (key,)
    # without one of its files it is whole no more
    cache.make_room(500)
    assert whole_trees(cache) == ()


def test_a_file_damaged_through_the_folder_is_repaired(cache: DiskCache) -> None:
    with open_tree(cache, MANIFEST, fetch) as tree:
        pass
    (tree.path / "unet/weights").write_bytes(b"U" * 300)
    (tree.path / "vae/weights").unlink()
    with open_tree(cache, MANIFEST, fetch) as tree:
        assert contents(tree.path) == FILES


def test_evicting_a_file_takes_the_folder_along_but_not_while_it_is_open(cache: DiskCache) -> None:
    with open_tree(cache, MANIFEST, fetch) as tree:
        cache.make_room(1000)
        assert contents(tree.path) == FILES
    cache.make_room(1000)
    assert cache.total_bytes() == 0
    assert not tree.path.exists()


def test_a_model_of_one_file_is_that_file(cache: DiskCache) -> None:
    data = FILES["unet/weights"]
    one = ManifestFile(path="model.safetensors", sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    with open_tree(cache, [one], fetch) as tree:
        assert tree.path.name == "model.safetensors"
        assert tree.path.read_bytes() == data


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../up", "", "a\\b", "a\0b"])
def test_paths_that_lead_out_are_refused_before_anything_is_fetched(cache: DiskCache, path: str) -> None:
    with pytest.raises(Permanent, match="outside"):
        open_tree(cache, [*MANIFEST, ManifestFile(path=path, sha256="ab" * 32, size=1)], fetch)
    assert cache.hashes() == ()
