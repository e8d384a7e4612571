"""Addresses that may be called, and the signature."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime

import pytest

from farm.errors import BadRequest, Transient
from farm.scheduler.webhooks import safe_address, sign

PUBLIC = "93.184.215.14"


def resolver(*addresses: str):  # type: ignore[no-untyped-def]
    return lambda host, port: list(addresses)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.8", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1",
     "fd00:ec2::254", "fe80::1%eth0", "::ffff:127.0.0.1"],
)  # fmt: skip
def test_private_addresses_are_refused(address: str) -> None:
    with pytest.raises(BadRequest, match="not public"):
        safe_address("https://hook.example/x", private=False, resolver=resolver(address))


def test_one_private_address_among_public_ones_is_enough() -> None:
    with pytest.raises(BadRequest, match="not public"):
        safe_address("https://hook.example/x", private=False, resolver=resolver(PUBLIC, "10.0.0.1"))


def test_a_public_address_is_resolved_once_and_returned() -> None:
    answer = safe_address("https://hook.example/x", private=False, resolver=resolver(PUBLIC))
    assert answer == ("hook.example", 443, PUBLIC)


@pytest.mark.parametrize(
    "url", ["ftp://a.example/", "https://", "file:///etc/passwd", "https://user:pw@a.example/"]
)
def test_other_schemes_and_credentials_are_refused(url: str) -> None:
    with pytest.raises(BadRequest):
        safe_address(url, private=False, resolver=resolver(PUBLIC))


def test_plain_http_needs_the_setting() -> None:
    with pytest.raises(BadRequest, match="not encrypted"):
        safe_address("http://a.example/", private=False, resolver=resolver(PUBLIC))
    assert safe_address("http://a.example/", private=True, resolver=resolver("127.0.0.1"))[1] == 80


def test_a_name_that_does_not_resolve_is_tried_again_later() -> None:
    def fail(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    with pytest.raises(Transient):
        safe_address("https://a.example/", private=False, resolver=fail)


def test_the_signature_is_that_of_standard_webhooks() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    headers = sign("secret", "msg_1", now, b"{}")
    expected = hmac.new(b"secret", f"msg_1.{int(now.timestamp())}.{{}}".encode(), hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()
