"""Plant mistakes in modules, one at a time, and tell which ones the given tests do not notice.

python scripts/plant_mistakes.py stf_jax/training/loop.py --tests tests/training --most 12

Each is planted in a copy of the repository's tracked files; a test that fails, or does not end,
has caught it. Strings, annotations, `raise` and decorators stay as they are.
"""

import argparse
import ast
import copy
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]

# Each is mistaken for the other of its pair.
TWINS = [(ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.In, ast.NotIn)]
TWINS += [(ast.Is, ast.IsNot), (ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.And, ast.Or)]
OPERATORS = {a: b for pair in TWINS for a, b in (pair, pair[::-1])} | {ast.FloorDiv: ast.Mult}
WORDS = "min max, sum mean, any all, floor ceil, argmin argmax, zeros ones, minimum maximum, query \
gallery, height width, before after, first last, start end, old new, lower upper, left right, x y, \
rows columns, train val, real padded, append extend, is_first is_last, set list, mean max"
NAMES = {a: b for pair in WORDS.split(", ") for a, b in (pair.split(), pair.split()[::-1])}
SPOKEN = {"help", "metavar", "description", "label", "desc", "title", "file", "check"}
SAID = {"say", "print", "report", "write", "warn", "flush", "set_postfix"}


class Mistake(NamedTuple):
    """Bytes `start` to `end` of `module`, in `function`, replaced by `after`."""

    module: Path
    function: str
    kind: str
    line: int
    start: int
    end: int
    before: str
    after: str


def swapped(items: list[Any], i: int, j: int) -> list[Any]:
    """Return a copy with two items exchanged."""
    items = list(items)
    items[i], items[j] = items[j], items[i]
    return items


class Finder:
    """Collects every mistake of a module."""

    def __init__(self, module: Path) -> None:
        self.module, self.source = module, (ROOT / module).read_bytes()
        self.lines = [0]
        for line in self.source.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.found: list[Mistake] = []
        # Of the functions around: name, annotations and first lines of names, attributes by owner.
        self.scopes: list[tuple[str, dict[str, tuple[str, int]], dict[str, set[str]]]] = []
        self._visit(ast.parse(self.source))

    def add(self, kind: str, node: Any, after: str | ast.AST, **fields: Any) -> None:
        """Note `after` in place of `node`; of a node, a copy with other `fields`."""
        if isinstance(after, ast.AST):
            after = copy.copy(after)
            for name, value in fields.items():
                setattr(after, name, value)
            after = ast.unparse(after)
        start = self.lines[node.lineno - 1] + node.col_offset
        end = self.lines[node.end_lineno - 1] + node.end_col_offset
        if after == ast.unparse(node):
            return
        function = self.scopes[-1][0] if self.scopes else "<module>"
        before = " ".join(self.source[start:end].decode().split())
        at = (self.module, function, kind, node.lineno, start, end)
        self.found.append(Mistake(*at, before, after))

    def _visit(self, node: ast.AST) -> None:
        getattr(self, f"_{type(node).__name__.lower()}", self._inside)(node)

    def _inside(self, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            self._visit(child)

    def _classdef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            self._visit(statement)

    def _functiondef(self, node: ast.FunctionDef) -> None:
        if node.name == "__repr__":
            return
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        names = {a.arg: (ast.unparse(a.annotation or ast.Tuple([])), 0) for a in arguments}
        attributes: dict[str, set[str]] = {}
        inside = [inner for statement in node.body for inner in ast.walk(statement)]
        called = {ast.unparse(inner.func) for inner in inside if isinstance(inner, ast.Call)}
        for inner in inside:
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                names.setdefault(inner.id, ("", inner.lineno))
            if isinstance(inner, ast.Attribute) and ast.unparse(inner) not in called:
                attributes.setdefault(ast.unparse(inner.value), set()).add(inner.attr)
        self.scopes.append((node.name, names, attributes))
        for part in (*node.args.defaults, *filter(None, node.args.kw_defaults), *node.body):
            self._visit(part)
        self.scopes.pop()

    def _annassign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._visit(node.value)

    def _raise(self, node: ast.Raise) -> None:
        """A message."""

    _joinedstr = _import = _importfrom = _raise

    def _compare(self, node: ast.Compare) -> None:
        self.add("comparison", node, node, ops=[OPERATORS[type(node.ops[0])](), *node.ops[1:]])
        self._inside(node)

    def _binop(self, node: ast.BinOp) -> None:
        sides = [getattr(side, "value", None) for side in (node.left, node.right)]
        if type(node.op) in OPERATORS and not any(isinstance(side, str) for side in sides):
            self.add("arithmetic", node, node, op=OPERATORS[type(node.op)]())
        self._inside(node)

    def _boolop(self, node: ast.BoolOp) -> None:
        self.add("and/or", node, node, op=OPERATORS[type(node.op)]())
        self._inside(node)

    def _if(self, node: Any) -> None:
        self.add("condition", node.test, f"not ({ast.unparse(node.test)})")
        self._inside(node)

    _ifexp = _while = _if

    def _comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.add("condition", test, "True")
        self._inside(node)

    def _constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.add("truth", node, str(not node.value))
        elif isinstance(node.value, int):
            self.add("constant", node, str(node.value + 1))

    def _subscript(self, node: ast.Subscript) -> None:
        index = ast.unparse(node.slice)
        if index in ("0", "-1"):
            self.add("index", node.slice, "-1" if index == "0" else "0")
            return self._visit(node.value)
        if isinstance(node.slice, ast.Slice) and node.slice.lower:
            self.add("slice", node.slice.lower, f"({ast.unparse(node.slice.lower)}) + 1")
        if isinstance(node.slice, ast.Slice) and node.slice.upper:
            self.add("slice", node.slice.upper, f"({ast.unparse(node.slice.upper)}) - 1")
        return self._inside(node)

    def _tuple(self, node: ast.Tuple) -> None:
        if len(node.elts) > 1 and not any(isinstance(e, ast.Starred) for e in node.elts):
            self.add("elements", node, node, elts=swapped(node.elts, 0, 1))
        self._inside(node)

    def _call(self, node: ast.Call) -> None:
        if ast.unparse(node.func).split(".")[-1].lstrip("_") in SAID:
            return
        keywords = [k for k in node.keywords if k.arg and k.arg not in SPOKEN]
        for each in keywords:
            rest = [k for k in node.keywords if k is not each]
            self.add("argument dropped", node, node, keywords=rest)
        for one, two in combinations(keywords, 2):
            pairs = {one: two.value, two: one.value}
            exchanged = [ast.keyword(k.arg, pairs.get(k, k.value)) for k in node.keywords]
            self.add("arguments exchanged", node, node, keywords=exchanged)
        if len(node.args) > 1 and not any(isinstance(a, ast.Starred) for a in node.args[:2]):
            self.add("arguments exchanged", node, node, args=swapped(node.args, 0, 1))
        self._inside(node)

    def _expr(self, node: ast.Expr) -> None:
        call = node.value
        spoken = isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] in SAID
        if isinstance(call, ast.Call) and not spoken:
            self.add("call removed", node, "pass")
        self._inside(node)

    def _name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):
            return
        known = {
            k: v for _, names, _ in self.scopes for k, v in names.items() if v[1] < node.lineno
        }
        if node.id not in known:
            if node.id in NAMES:
                self.add("twin", node, NAMES[node.id])
            return
        kind, words = known[node.id][0], set(node.id.split("_"))
        for other, (its_kind, _) in known.items():
            alike = words & set(other.split("_")) or NAMES.get(node.id) == other
            if other not in (node.id, "self") and (alike or (kind and kind == its_kind)):
                self.add("name", node, other)

    def _attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Load):
            if node.attr in NAMES:
                self.add("twin", node, node, attr=NAMES[node.attr])
            owner = ast.unparse(node.value)
            siblings = self.scopes[-1][2].get(owner, set()) if self.scopes else set()
            for other in sorted(siblings - {node.attr}) if node.attr in siblings else ():
                self.add("attribute", node, node, attr=other)
        self._inside(node)


def drawn(found: list[Mistake], most: int, seed: int) -> Iterator[Mistake]:
    """Yield at most `most`, at random but spread over kinds, functions and modules."""
    left, used = sorted(found, key=lambda m: (str(m.module), m.start, m.kind, m.after)), Counter()
    random.Random(seed).shuffle(left)
    for _ in range(min(most, len(left))):
        chosen = min(left, key=lambda m: used[m.kind] + used[m[:2]] + used[m.module] / 4)
        left.remove(chosen)
        used.update([chosen.kind, chosen[:2], chosen.module])
        yield chosen


def tracked_copy(folder: Path) -> Path:
    """Copy the tracked files into the new `folder`."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, names.stdout.decode().split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def passes(folder: Path, pytest: list[str], timeout: float) -> bool:
    """Whether the tests pass, in time, on what `folder` holds."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *pytest]
    # Compiled files of before a mistake look current when it has as many letters.
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    with (folder / "output.txt").open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=out, stderr=out, start_new_session=True
        )
        try:
            return process.wait(timeout) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def main(argv: list[str] | None = None) -> int:
    """Plant, print and count; status 2 where the tests fail before."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("modules", nargs="+", type=Path, help="files, relative to the repository")
    parser.add_argument("--tests", nargs="+", required=True, help="files or folders for pytest")
    parser.add_argument("-m", "--markers", default="not slow", help="pytest's -m")
    parser.add_argument("--most", type=int, default=12, help="mistakes (default: 12)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=300, help="seconds a mistake")
    args = parser.parse_args(argv)
    pytest = ["-m", args.markers, *args.tests]
    found = [mistake for module in args.modules for mistake in Finder(module).found]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(args.jobs) as workers:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for k in range(args.jobs):
            copies.put(tracked_copy(Path(scratch, str(k))))
        first = Path(scratch, "0")
        begun = time.monotonic()
        if not passes(first, pytest, args.timeout):
            tail = (first / "output.txt").read_text(errors="replace")[-2000:]
            print(f"{tail}\nerror: these tests fail without a mistake", file=sys.stderr)
            return 2

        print(f"without a mistake: passed in {time.monotonic() - begun:.0f} s", flush=True)

        def caught(mistake: Mistake) -> bool:
            folder = copies.get()
            source = (ROOT / mistake.module).read_bytes()
            planted = source[: mistake.start] + mistake.after.encode() + source[mistake.end :]
            (folder / mistake.module).write_bytes(planted)
            try:
                return not passes(folder, pytest, args.timeout)
            finally:
                (folder / mistake.module).write_bytes(source)
                copies.put(folder)

        runs = {workers.submit(caught, m): m for m in drawn(found, args.most, args.seed)}
        survived = 0
        for run in as_completed(runs):
            m, verdict = runs[run], "caught" if run.result() else "SURVIVED"
            survived += verdict == "SURVIVED"
            where = f"{m.module}:{m.line} {m.function}"
            print(f"{verdict:8} {where} ({m.kind}): {m.before} -> {m.after}", flush=True)
    print(f"{len(runs)} of {len(found)} mistakes planted, {survived} survived")
    return 0


if __name__ == "__main__":
    sys.exit(main())
