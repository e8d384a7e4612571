"""Guards that need no service: hosts, redirects, secrets, policies, limits."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from farm.web.auth import key_prefix, safe_path
from farm.web.security import allowed_hosts, content_security_policy, host_name, secret_key, write_secret
from farm.web.throttle import Slots, Throttle


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/queue", "/queue"),
        ("/queue?state=failed#x", "/queue?state=failed#x"),
        ("", "/"),
        ("queue", "/"),
        ("//evil.example", "/"),
        ("///evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/a\\b", "/"),
        ("\\\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/\n/evil.example", "/"),
        ("/\t/evil.example", "/"),
        (" //evil.example", "/"),
    ],
)
def test_a_login_never_sends_a_browser_to_another_site(target: str, expected: str):
    assert safe_path(target) == expected


def test_hosts_are_names_without_ports():
    names = allowed_hosts("127.0.0.1, Farm.LAN:8484,[::1]", "0.0.0.0")
    assert names == {"127.0.0.1", "farm.lan", "[::1]"}
    assert allowed_hosts("", "192.168.1.5") == {"192.168.1.5"}
    assert allowed_hosts("", "::1") == {"[::1]"}
    assert host_name("127.0.0.1.evil.example:80") not in names
    assert host_name("farm.lan.") == "farm.lan"


def test_scripts_run_only_with_the_nonce():
    policy = dict(
        part.split(" ", 1) for part in content_security_policy("n0nce", "http://s3:8333").split("; ")
    )
    assert policy["script-src"] == "'self' 'nonce-n0nce'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["img-src"] == "'self' data: blob: http://s3:8333"
    assert policy["connect-src"] == "'self' http://s3:8333"
    assert "unsafe-eval" not in str(policy)
    assert [name for name, value in policy.items() if "unsafe-inline" in value] == ["style-src-attr"]


def test_a_secret_is_made_once_and_only_its_owner_reads_it(tmp_path: Path):
    first = secret_key(tmp_path / "data", "")
    assert len(first) >= 43
    assert secret_key(tmp_path / "data", "") == first
    assert secret_key(tmp_path / "data", "given") == "given"
    path = tmp_path / "data" / "secret-key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_secret(path, "other", replace=True)
    assert path.read_text() == "other\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["secret-key"]


def test_the_prefix_of_what_is_no_key_is_empty():
    assert key_prefix("farm_ab_c_d") == "ab"
    assert key_prefix("farm") == ""


def test_a_throttle_forgets():
    seconds = [0.0]
    throttle = Throttle(limit=2, window_seconds=10, monotonic=lambda: seconds[0])
    for _ in range(5):
        throttle.hit("a")
    assert throttle.wait_seconds("a") == 10
    assert throttle.wait_seconds("b") == 0
    seconds[0] = 10.5
    assert throttle.wait_seconds("a") == 0
    assert not throttle._hits


def test_slots_are_given_back():
    slots = Slots(total=3, each=2)
    assert [slots.take("a") for _ in range(3)] == [True, True, False]
    assert [slots.take("b") for _ in range(2)] == [True, False]
    slots.give("a")
    assert slots.take("b")
