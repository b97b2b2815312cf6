"""
Mutants: small mistakes that are put into echod one at a time, to see whether a test notices.

    python -m tests.mutants                      60 mutants, over all packages
    python -m tests.mutants --seed 7 --jobs 2    another choice, two at a time
    python -m tests.mutants --list               which they are
    python -m tests.mutants --only 12,40         these only

Invariant: the mutants live in copies of the tree, never in the tree.  A mutant dies by the unit
tests of its own module, else by all unit tests, else by the integration tests that concern it; a
test that also fails without the mutant counts for nothing.
"""

import argparse
import ast
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("echod", "tests", "twisted", "deploy", "pyproject.toml", "README.md", "LICENSE", ".ci")

CONCERNS: dict[str, tuple[int, Sequence[str]]] = {
    "_util": (2, ("stop", "twistd", "standard_streams")),
    "admin": (2, ("admin", "page", "page_hostile")),
    "check": (3, ("check", "check_proxy")),
    "connections": (4, ("limits_in_time", "admission", "refusals", "stop")),
    "logs": (5, ("logs", "stop")),
    "net/unix": (4, ("inherited", "stop", "workers", "reactors")),
    "net/tls": (5, ("tls_exactness", "tls_hostile", "tls_clients", "adversity")),
    "net/handshake": (3, ("tls_exactness", "tls_hostile", "tls_clients")),
    "net": (6, ("accept", "exactness", "backpressure", "workers", "reactors", "stop")),
    "options": (1, ("bad_input",)),
    "protocol": (3, ("exactness", "tls_exactness", "backpressure", "facts")),
    "proxyprotocol": (3, ("proxy_header",)),
    "service": (2, ("stop", "systemd")),
    "stats": (1, ("admin", "page")),
    "systemd": (2, ("systemd", "inherited")),
    "tap": (2, ("bad_input", "twistd")),
    "tls": (4, ("tls_rotation", "tls_hostile", "tls_clients")),
    "workers": (8, ("workers", "stop")),
}
"""
Each package, and some modules: how many of 60 mutants it has, more where faults hide, and the
integration tests that concern it.
"""

TIMEOUTS = (180, 600, 1200)
"""Seconds for each of the three stages; a mutant that takes longer has died, too."""

COMPARED = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: (r"is\s+not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
}
CALCULATED = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+")}


@dataclass(frozen=True)
class Mutant:
    """
    One mistake.

    @ivar path: the file, from the root of the tree.
    @ivar start: where the text begins that it replaces, in bytes, and C{end}: where that ends.
    """

    path: str
    line: int
    start: int
    end: int
    text: str
    kind: str
    weight: float

    @property
    def concern(self) -> str:
        path = self.path.removeprefix("echod/").removesuffix(".py")
        return path if path in CONCERNS else path.partition("/")[0]

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]


class Finder(ast.NodeVisitor):
    """
    Finds the mutants of one file.
    """

    def __init__(self, path: str, source: bytes):
        self.path = path
        self.found: list[Mutant] = []
        self._source = source
        lines = source.splitlines(keepends=True)
        self._offsets = [0, *itertools.accumulate(map(len, lines))]
        self._weight = 1.0

    def _at(self, line: int | None, column: int | None) -> int:
        return self._offsets[(line or 1) - 1] + (column or 0)

    def _span(self, node: ast.AST) -> tuple[int, int]:
        place: ast.expr = node  # type: ignore[assignment]  # or a statement, alike in this
        return (
            self._at(place.lineno, place.col_offset),
            self._at(place.end_lineno, place.end_col_offset),
        )

    def _add(
        self, node: ast.AST, text: str, kind: str, span: tuple[int, int] | None = None
    ) -> None:
        start, end = span or self._span(node)
        line = self._source.count(b"\n", 0, start) + 1
        self.found.append(Mutant(self.path, line, start, end, text, kind, self._weight))

    def _add_between(
        self, left: ast.AST, right: ast.AST, old: str, new: str, kind: str, word: bool = False
    ) -> None:
        start, end = self._span(left)[1], self._span(right)[0]
        pattern = rf"\b{old}\b" if word else old
        if found := re.search(pattern, self._source[start:end].decode()):
            self._add(left, new, kind, (start + found.start(), start + found.end()))

    def _body(self, statements: Sequence[ast.stmt], weight: float) -> None:
        before, self._weight = self._weight, self._weight * weight
        for each in statements:
            self.visit(each)
        self._weight = before

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        # An interface has no code.
        if not any(isinstance(b, ast.Name) and b.id == "Protocol" for b in node.bases) or any(
            name in ast.dump(node) for name in ("dataReceived", "connectionMade")
        ):
            self._body(node.body, 1)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._body(node.body, 1)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Try(self, node: ast.Try) -> None:
        self._body(node.body, 1)
        self._body(node.orelse, 1)
        self._body(node.finalbody, 3)
        for handler in node.handlers:
            before, self._weight = self._weight, self._weight * 3
            first, last = handler.body[0], handler.body[-1]
            if not isinstance(first, ast.Raise):
                span = self._span(first)[0], self._span(last)[1]
                self._add(first, "raise", "an error that is not caught", span)
            self._weight = before
            self._body(handler.body, 3)

    def visit_Expr(self, node: ast.Expr) -> None:
        value = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(value, ast.Constant):
            return
        if isinstance(value, ast.Call):
            called = ast.unparse(value.func)
            if called.startswith("log."):
                # Its texts and figures are the tests' of the log, not a mutant each.
                self._add(node, "pass", "a line of the log that is missing")
                self.found[-1] = replace(self.found[-1], weight=self._weight / 4)
                return
            if called != "super().__init__":
                self._add(node, "pass", "a call that is missing")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        target = node.targets[0]
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "Logger":
            return
        if isinstance(target, ast.Attribute) and not isinstance(node.value, ast.Name):
            self._add(node, "pass", "a state that is not kept")
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.op, ast.Add | ast.Sub):
            old, new = CALCULATED[type(node.op)]
            self._add_between(
                node.target, node.value, re.escape(old + "="), new + "=", "another sign"
            )
        self.visit(node.value)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not isinstance(node.value, ast.Constant):
            self._add(node, "return None", "a result that is missing")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return
        self._condition(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def _condition(self, test: ast.expr) -> None:
        for text in ("True", "False"):
            self._add(test, text, "a condition that is not asked")

    def visit_Compare(self, node: ast.Compare) -> None:
        old, new = COMPARED[type(node.ops[0])]
        self._add_between(node.left, node.comparators[0], old, new, "another comparison")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in itertools.pairwise(node.values):
            self._add_between(left, right, old, new, "another conjunction", True)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            span = self._span(node)[0], self._span(node.operand)[0]
            self._add(node, "", "a negation that is missing", span)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in CALCULATED and not isinstance(node.left, ast.Constant):
            old, new = CALCULATED[type(node.op)]
            self._add_between(node.left, node.right, re.escape(old), new, "another operation")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._add(node, str(not node.value), "another constant")
        elif isinstance(node.value, int | float):
            self._add(node, str(node.value * 2 or 1), "another constant")

    def visit_Call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func)
        if called in ("min", "max"):
            self._add(node.func, {"min": "max", "max": "min"}[called], "another bound")
        if called == "suppress":
            before, self._weight = self._weight, self._weight * 3
            span = self._span(node.func)[1], self._span(node)[1]
            self._add(node, "()", "an error that is not caught", span)
            self._weight = before
        if called != "log.failure":
            self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id == "errno":
            before, self._weight = self._weight, self._weight * 3
            self._add(node, "errno.ENOTTY", "another error number")
            self._weight = before
        self.generic_visit(node)

    def visit_Break(self, node: ast.Break) -> None:
        self._add(node, "continue", "a loop that goes on")

    def visit_Raise(self, node: ast.Raise) -> None:
        before, self._weight = self._weight, self._weight * 2
        self._add(node, "pass", "an error that is not raised")
        self._weight = before


def choose(number: int, seed: int) -> list[Mutant]:
    """
    Choose mutants by their weights, of each package its share, and one a line at most.
    """
    found: list[Mutant] = []
    for path in sorted((ROOT / "echod").rglob("*.py")):
        source = path.read_bytes()
        finder = Finder(str(path.relative_to(ROOT)), source)
        finder.visit(ast.parse(source))
        found += finder.found
    chance = random.Random(seed)
    # Of weighted keys the highest are a weighted sample (Efraimidis and Spirakis, 2006).
    found.sort(key=lambda each: chance.random() ** (1 / each.weight), reverse=True)
    shares = {name: share for name, (share, _) in CONCERNS.items()}
    left = {name: round(share * number / sum(shares.values())) for name, share in shares.items()}
    chosen: dict[tuple[str, int], Mutant] = {}
    for each in found:
        # __init__ and the like at the top have no share.
        if left.get(each.concern) and (each.path, each.line) not in chosen:
            chosen[each.path, each.line] = each
            left[each.concern] -= 1
    return [chosen[place] for place in sorted(chosen)]


def stages(mutant: Mutant) -> Iterator[list[str]]:
    """
    The tests of each stage: those of the module, those of all units, those that integrate it.
    """
    module = Path(mutant.path).relative_to("echod")
    folder = ROOT / "tests/unit" / module.parent
    name = module.parent.name if module.stem == "__init__" else module.stem
    paths = sorted(folder.glob(f"test_{name}*.py")) or [folder]
    yield [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    yield ["tests.unit"]
    yield [f"tests.integration.test_{name}" for name in CONCERNS[mutant.concern][1]]


class Copy:
    """
    A copy of the tree in which one mutant at a time lives.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._tree = folder / "tree"
        self._tree.mkdir(parents=True)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                skipped = shutil.ignore_patterns("__pycache__", "dropin.cache", "_trial_temp*")
                shutil.copytree(source, self._tree / name, ignore=skipped)
            else:
                shutil.copy(source, self._tree / name)

    def _trial(self, tests: Sequence[str], seconds: float) -> str:
        """
        @return: which test failed; empty if none did.
        """
        # Daemons import the copy, too, and are found by it if they outlive their test.
        environment = os.environ | {
            "PYTHONPATH": str(self._tree),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [sys.executable, "-m", "twisted.trial", "--exitfirst"]
        running = subprocess.Popen(
            [*command, f"--temp-directory={self._folder / 'trial'}", *tests],
            cwd=self._tree,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            said, _ = running.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            running.kill()
            running.communicate()
            return "(not done in time)"
        finally:
            self._end_left()
        if running.returncode == 0:
            return ""
        named = re.findall(r"^(tests\.\S+)$", said, re.MULTILINE)
        return named[-1] if named else f"({said.strip()[-300:]})"

    def _end_left(self) -> None:
        mark = os.fsencode(self._tree)
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)

    def judge(self, mutant: Mutant) -> str:
        """
        @return: which test has noticed the mutant; empty if none has.
        """
        path = self._tree / mutant.path
        source = path.read_bytes()
        for tests, seconds in zip(stages(mutant), TIMEOUTS, strict=True):
            path.write_bytes(mutant.apply(source))
            try:
                failed = self._trial(tests, seconds)
            finally:
                path.write_bytes(source)
            if failed.startswith("(") or (failed and not self._trial([failed], seconds)):
                return failed
            if failed:
                print(f"  {failed} fails without the mutant, too", flush=True)
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Put small mistakes into echod, one at a time.")
    parser.add_argument("--number", type=int, default=60, help="how many mutants (60)")
    parser.add_argument("--seed", type=int, default=1, help="which ones (1)")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time (1)")
    parser.add_argument("--only", default="", help="the numbers of some of them")
    parser.add_argument("--list", action="store_true", help="only say which they are")
    options = parser.parse_args()
    mutants = list(enumerate(choose(options.number, options.seed), 1))
    if options.only:
        wanted = set(map(int, options.only.split(",")))
        mutants = [each for each in mutants if each[0] in wanted]

    def show(number: int, mutant: Mutant, end: str) -> None:
        source = (ROOT / mutant.path).read_bytes()
        old = " ".join(source[mutant.start : mutant.end].decode().split())
        change = f"{old[:60]!r} -> {mutant.text!r}"
        print(f"{number:3} {mutant.path}:{mutant.line} {mutant.kind}: {change}{end}", flush=True)

    if options.list:
        for number, mutant in mutants:
            show(number, mutant, "")
        return
    survivors = []
    with tempfile.TemporaryDirectory(prefix="echod-mutants-") as folder:
        copies = [Copy(Path(folder) / str(number)) for number in range(options.jobs)]

        def judge(numbered: tuple[int, Mutant]) -> None:
            copy = copies.pop()
            killer = copy.judge(numbered[1])
            copies.append(copy)
            show(*numbered, f"\n      {killer or 'SURVIVED'}")
            if not killer:
                survivors.append(numbered)

        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(judge, mutants))
    print(f"{len(mutants)} mutants, seed {options.seed}: {len(survivors)} survived")
    for numbered in sorted(survivors, key=lambda each: each[0]):
        show(*numbered, "")
    sys.exit(len(survivors) > 3)


if __name__ == "__main__":
    main()
