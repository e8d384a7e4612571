"""Fixtures for all tests: real servers, started once a session and only when a test asks for one."""

from __future__ import annotations

pytest_plugins = ["tests.support.services"]
