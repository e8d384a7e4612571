"""Fixtures for all tests: real servers, started once a session and only when a test asks for one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# several processes test at once: torch threads that wait for one another would take the cores from the others
os.environ.setdefault("OMP_NUM_THREADS", "1")

# an example that takes long says something about the machine only
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

pytest_plugins = ["tests.support.services"]

#: Suites whose tests share one farm or one set of servers stay together in one of the parallel processes.
TOGETHER = {"e2e": "e2e", "chaos": "chaos"}


@pytest.hookimpl(tryfirst=True)  # before the parallel runner reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        parts = Path(item.path).relative_to(config.rootpath).parts
        group = TOGETHER.get(parts[1]) if len(parts) > 2 else None
        if group is None and item.path.name.startswith("test_api_"):
            group = "api"
        if group:
            item.add_marker(pytest.mark.xdist_group(group))
