"""Take the terms out of the guards of jobs, one at a time, and see whether a test notices.

    python -m tools.mutate_guards [--list] [WORD …]

Every term of a WHERE in the modules below is replaced by TRUE in a copy of the code, and the tests of the job store run
on SQLite until one fails. Prints each term that nobody missed, and ends with 1 when there are any. A run takes
minutes: it is not part of the test suite. WORDs choose the terms whose place or text contains one of them.
"""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODULES = tuple(f"farm/jobs/{name}.py" for name in ("attempts", "leading", "control", "moves", "leases"))
#: the quick ones first: most terms are missed at once
TESTS = (
    "tests/integration/test_jobs_guards.py",
    "tests/integration/test_jobs_attempts.py",
    "tests/integration/test_jobs_resuming.py",
    "tests/integration/test_jobs_losses.py",
    "tests/integration/test_jobs_bulk.py",
    "tests/integration/test_scheduler.py",
    "tests/integration/test_scheduler_faults.py",
    "tests/integration/test_jobs_machine.py",
)
#: loaded once for all runs
HEAVY = ("alembic.command", "hypothesis.stateful", "psycopg", "farm.scheduler.loop", "farm.jobs.views")
#: loaded anew for each
CHANGED = ("farm.jobs", "farm.scheduler", "tests")
COPIED = ("farm", "tests", "migrations", "pyproject.toml")
#: (function, term) of what no test on SQLite can miss, with the reason
REDUNDANT: dict[tuple[str, str], str] = {}
_TRUE = '__import__("sqlalchemy").true()'
#: names of tuples that are guards
_NAMES = {"guard", "mine", "ahead", "failed", "marked", "hooked"}


@dataclass(frozen=True, slots=True)
class Term:
    """One condition of one statement."""

    path: str
    function: str
    #: as `ast` counts them: lines from 1, columns in bytes from 0
    line: int
    column: int
    end_line: int
    end_column: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.function}: {self.text}"


def terms(path: str, source: str) -> Iterator[Term]:
    """Every term of every guard in a module, in the order of its lines."""
    found = {}
    for function in [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]:
        for node in ast.walk(function):
            for item in _guard(node):
                if isinstance(item, ast.Starred) and not isinstance(item.value, ast.Call):
                    continue  # a guard that is named, and taken apart where it is made
                text = ast.get_source_segment(source, item) or ""
                place = (item.lineno, item.col_offset, item.end_lineno or 0, item.end_col_offset or 0)
                found[place] = Term(path, function.name, *place, " ".join(text.split()))
    for place in sorted(found):
        yield found[place]


def _guard(node: ast.AST) -> list[ast.expr]:
    """The terms that a node joins by AND, if it is a guard."""
    match node:
        case ast.Call(func=ast.Attribute(attr="where"), args=args):
            return args
        case ast.Call(func=ast.Name(id="move"), args=[_, _, ast.Tuple(elts=elements), *_]):
            return elements
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Tuple(elts=elements)) if name in _NAMES:
            return elements
        case ast.Return(value=ast.Tuple(elts=elements)) if all(map(_is_term, elements)):
            return elements
        case ast.Call(func=ast.Name(id="and_"), args=args):
            return args
    return []


def _is_term(node: ast.expr) -> bool:
    return isinstance(node, ast.Compare | ast.Starred) or (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    )


def without(source: str, term: Term) -> str:
    """The module with this term true."""
    lines = source.encode().splitlines(keepends=True)
    before = b"".join(lines[: term.line - 1]) + lines[term.line - 1][: term.column]
    after = lines[term.end_line - 1][term.end_column :] + b"".join(lines[term.end_line :])
    other = "*()" if term.text.startswith("*") else _TRUE
    return (before + other.encode() + after).decode()


def missed(root: Path, schema: Path) -> bool:
    """Whether a test of the copy in `root` fails; in a process of its own, because modules are loaded once."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(_run(root, schema))
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 1):
        sys.exit(f"the tests did not run: see {root / 'last.log'}")
    return code == 1


def _run(root: Path, schema: Path) -> int:
    """The tests up to the first that fails; pytest's exit code."""
    log = os.open(root / "last.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(log, number)
    for name in [name for name in sys.modules if name.startswith(CHANGED)]:
        del sys.modules[name]
    import pytest
    from hypothesis import Phase, settings

    from tests.support import stores

    stores.migrate = lambda url: shutil.copy(schema, url.removeprefix("sqlite:///"))
    # that a history fails is enough, the shortest one is not asked for
    settings.register_profile("mutants", phases=[Phase.generate])
    settings.load_profile("mutants")
    tests = [test for test in TESTS if (root / test).exists()]
    options = ["-x", "-q", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-k", "not postgresql"]
    # without the fixtures of workers, which load torch
    options += ["--noconftest", "-p", "tests.support.stores", "-p", "no:cacheprovider"]
    return int(pytest.main([*options, f"--basetemp={root / 'tmp'}", *tests]))


def main(words: list[str]) -> int:
    chosen = [
        term
        for path in MODULES
        for term in terms(path, (ROOT / path).read_text())
        if (term.function, term.text) not in REDUNDANT
        and (not words or any(word in str(term) for word in words))
    ]
    if "--list" in sys.argv:
        print(*chosen, sep="\n")
        return 0
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="farm-mutants-", dir=memory if memory.is_dir() else None))
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    os.chdir(root)
    sys.path[:] = [str(root), *(path for path in sys.path if path not in ("", str(ROOT)))]
    for name in HEAVY:
        importlib.import_module(name)
    schema = root / "schema.db"
    importlib.import_module("farm.db.engine").migrate(f"sqlite:///{schema}")
    if missed(root, schema):
        sys.exit(f"the tests fail without any change: see {root / 'last.log'}")
    survivors = []
    for number, term in enumerate(chosen, 1):
        source = (root / term.path).read_text()
        began = time.monotonic()
        (root / term.path).write_text(without(source, term))
        caught = missed(root, schema)
        (root / term.path).write_text(source)
        verdict = "caught  " if caught else "SURVIVES"
        print(f"{number:3}/{len(chosen)} {verdict} {time.monotonic() - began:5.1f} s  {term}", flush=True)
        if not caught:
            survivors.append(term)
    shutil.rmtree(root)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} terms are missed when they are gone")
    for term in survivors:
        print(f"not missed: {term}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main([word for word in sys.argv[1:] if not word.startswith("--")]))
