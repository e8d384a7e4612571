"""Take the terms out of the guards of jobs, one at a time, and see whether a test notices.

    python -m tools.mutate_guards [--list] [--quick] [WORD …]

Every term of a WHERE in the modules below is replaced by TRUE, in the memory of a process of its own, and the tests of
the job store run there on SQLite until one fails. Prints each term that nobody missed, and ends with 1 when there are
any. A run takes minutes: it is not part of the test suite. WORDs choose the terms whose place or text contains one;
`--quick` runs the first file of tests alone.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import Phase, settings

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
#: (function, term) of what no test on SQLite can miss, with the reason
REDUNDANT: dict[tuple[str, str], str] = {
    ("_would_meet_poison", "other.state.in_(sorted(HELD))"): "who has a worker is held: a CHECK of the table",
    ("retry_later", "Job.attempt == attempt"): "read alone; the UPDATE that follows asks again",
}
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


def take_out(term: Term) -> None:
    """Let the function of this process that holds the term do without it, whoever has imported it."""
    path = ROOT / term.path
    real = importlib.import_module(term.path.removesuffix(".py").replace("/", "."))
    changed = types.ModuleType(real.__name__)
    # dataclasses look for their module by name
    sys.modules[real.__name__] = changed
    exec(compile(without(path.read_text(), term), str(path), "exec"), changed.__dict__)
    sys.modules[real.__name__] = real
    getattr(real, term.function).__code__ = getattr(changed, term.function).__code__


class Mutants:
    """A plugin of pytest: once the tests are collected and have passed, they run anew for each term."""

    def __init__(self, chosen: list[Term]):
        self._chosen = chosen
        self.survivors: list[Term] = []

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = session.items
        # what a whole file or run shares is made now, and stays for all that follow
        for item, following in zip(items, [*items[1:], items[0]], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return True
        for number, term in enumerate(self._chosen, 1):
            began = time.monotonic()
            caught = self._missed(term, session)
            verdict = "missed  " if caught else "SURVIVES"
            told = f"{number:3}/{len(self._chosen)} {verdict} {time.monotonic() - began:5.1f} s  {term}\n"
            os.write(_TERMINAL, told.encode())
            if not caught:
                self.survivors.append(term)
        return True

    def _missed(self, term: Term, session: pytest.Session) -> bool:
        """Whether a test fails without this term; those that name its function are asked first."""
        child = os.fork()
        if child == 0:
            try:
                take_out(term)
                name = term.function.strip("_")
                items = sorted(session.items, key=lambda item: name not in item.nodeid)
                for item, following in zip(items, [*items[1:], items[0]], strict=True):
                    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                    if session.testsfailed:
                        os._exit(1)
                os._exit(0)
            finally:
                os._exit(3)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code not in (0, 1):
            raise RuntimeError(f"the tests did not run without {term}")
        return code == 1


def main(words: list[str], *, only_list: bool, quick: bool) -> int:
    chosen = [
        term
        for path in MODULES
        for term in terms(path, (ROOT / path).read_text())
        if (term.function, term.text) not in REDUNDANT
        and (not words or any(word in str(term) for word in words))
    ]
    if only_list:
        print(*chosen, sep="\n")
        return 0
    os.chdir(ROOT)
    # that a history fails is enough, the shortest one is not asked for
    settings.register_profile("mutants", phases=[Phase.generate])
    settings.load_profile("mutants")
    options = ["-q", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-k", "not postgresql"]
    # without the fixtures of workers, which load torch
    options += ["--noconftest", "-p", "tests.support.stores", "-p", "no:cacheprovider"]
    mutants = Mutants(chosen)
    if pytest.main([*options, *TESTS[: 1 if quick else None]], plugins=[mutants]):
        sys.exit("the tests fail without any change, or did not run")
    print(f"{len(chosen) - len(mutants.survivors)} of {len(chosen)} terms are missed when they are gone")
    for term in mutants.survivors:
        print(f"nobody misses {term}")
    return 1 if mutants.survivors else 0


#: where pytest, which captures what its tests print, does not
_TERMINAL = os.dup(1)

if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(
        main(
            [word for word in given if not word.startswith("--")],
            only_list="--list" in given,
            quick="--quick" in given,
        )
    )
