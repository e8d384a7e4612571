"""Migrations only add, so that code of before runs on the schema of after."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from farm.db.migrate import find_migrations

VERSIONS = sorted((find_migrations() / "versions").glob("*.py"))
#: calls of `op` that nothing of before can trip over
HARMLESS = {
    "create_table",
    "create_index",
    "drop_index",
    "add_column",
    "f",
    "get_bind",
    "execute",
    "batch_alter_table",
}


def calls(path: Path) -> list[ast.Call]:
    """Calls of `op` in an upgrade; of the first migration none, before which there was no code."""
    tree = ast.parse(path.read_text())
    (upgrade,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "upgrade")
    return [
        node
        for node in ast.walk(upgrade)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in ("op", "batch", "batch_op")
    ]


@pytest.mark.parametrize("path", VERSIONS, ids=lambda path: path.stem)
def test_g14_a_migration_only_adds(path: Path) -> None:
    for call in calls(path):
        assert isinstance(call.func, ast.Attribute)
        name, text = call.func.attr, ast.unparse(call)
        assert name in HARMLESS, f"{path.name} takes something away: {text}"
        if name == "add_column":
            given = "nullable=True" in text or "server_default=" in text
            assert given, f"{path.name} adds a column that code of before does not fill: {text}"
