"""What the dashboard brings along from elsewhere is exactly what was fetched, with its licences."""

from __future__ import annotations

import hashlib
import json

from tools import vendor

PACKAGES = json.loads(vendor.MANIFEST.read_text())


def test_every_file_is_the_one_that_was_fetched() -> None:
    for package in PACKAGES:
        for member, known in package["files"].items():
            data = vendor.path_of(package, member).read_bytes()
            assert hashlib.sha256(data).hexdigest() == known, f"{package['name']}: {member}"


def test_nothing_else_lies_there() -> None:
    known = {vendor.path_of(package, member) for package in PACKAGES for member in package["files"]}
    assert {path for path in vendor.TARGET.rglob("*") if path.is_file()} == known


def test_every_package_brings_its_licence_and_is_listed() -> None:
    assert all("LICENSE" in package["files"] for package in PACKAGES)
    assert vendor.NOTICE.read_text() == vendor.notice(PACKAGES)
