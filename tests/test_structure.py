"""The rules of the house that a machine can check: layers, sizes, names, idioms, and a quick start."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "selfsup"

# Bottom first. A module imports from its own layer and from those below it.
LAYERS = [
    set(names.split())
    for names in (
        "errors names progress",
        "ops",
        "data nn encoder image_encoder image_network text_encoder text_network text_reading word_vectors predictors "
        "optim layer_decay",
        "fields backbones recipes settings fusion objective construct prepare size resolve",
        "objectives",
        "run runtime cost",
        "exports eval predict word_files sentence_files restoration embedding vectors classify naming sides shots "
        "prompting search pictures plots report",
        "checks loop steps weighting mining",
        "planning summary training folds answers suitability least audit compare mine",
        "cli parse verbs uses searches tables __main__",
    )
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
# These take an `Encoder`, so that any hub model can stand beside a run.
BLIND_TO_OBJECTIVES = {"eval", "exports", "search", "pictures", "plots"}
VERB_FILES = {"cli.py", "verbs.py", "uses.py", "searches.py"}
KNOW_OF_PROCESSES = {"runtime.py", "ops/gather.py", "nn/norm.py"}
HEAVY = {"torch", "torchvision", "timm", "transformers", "datasets", "accelerate", "numpy", "pandas", "pyarrow"}
HEAVY |= {"scipy", "sklearn", "matplotlib", "numba", "PIL", "faiss"}

FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported anywhere in a module that lies in `package`, relative or not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)


def imports_of(file: str) -> Iterator[tuple[int, str]]:
    return imports(TREES[file], ".".join(["selfsup", *file.split("/")[:-1]]))


def part_of(file: str) -> str:
    """The part of the house that a file belongs to: `cli.py` is cli, `ops/masking.py` is ops."""
    return file.split("/")[0].removesuffix(".py")


def upward(file: str, name: str) -> str | None:
    """Why `file` may not import `name`; None if it may."""
    part, target = part_of(file), name.split(".")
    if part == "__init__" or target[0] != "selfsup" or target[1:] == ["__version__"]:
        return None
    other = target[1] if len(target) > 1 else "__init__"
    if other not in LEVEL:
        return None if LEVEL[part] == len(LAYERS) - 1 else "takes a public name from the top"
    if other == part == "objectives":
        return "objectives do not import each other"
    if other == "objectives" and part in BLIND_TO_OBJECTIVES:
        return f"{part} knows no objective"
    return None if LEVEL[other] <= LEVEL[part] else f"{part} lies below {other}"


def calls(tree: ast.AST, names: set[str]) -> Iterator[tuple[int, str]]:
    """(line, name) of each call of a plain name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node.lineno, node.func.id


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def swallows(handler: ast.ExceptHandler) -> bool:
    """Whether a handler takes any exception at all and does not raise at its end: to clean up is no offence."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    broad = any(kind is None or ast.unparse(kind) in {"Exception", "BaseException"} for kind in kinds)
    return broad and not isinstance(handler.body[-1], ast.Raise)


def offences(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, idiom) of the idioms that the house does without."""
    yield from calls(tree, {"getattr", "hasattr"})
    yield from (
        (node.lineno, f"**{node.args.kwarg.arg}")
        for node in functions(tree)
        if node.args.kwarg and node.args.kwarg.arg != "settings"
    )  # the Python face of the flags
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and swallows(node):
            yield node.lineno, "except Exception"


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_every_module_has_a_layer():
    parts = {part_of(file) for file in TREES} - {"__init__"}
    assert parts <= LEVEL.keys(), f"name them in LAYERS: {sorted(parts - LEVEL.keys())}"


def test_imports_go_down():
    found = [(file, line, name, upward(file, name)) for file in TREES for line, name in imports_of(file)]
    against = [f"{file}:{line} imports {name}: {why}" for file, line, name, why in found if why]
    assert not against, "\n".join(against)


@pytest.mark.parametrize(
    ("file", "source", "allowed"),
    [
        ("loop.py", "from selfsup.runtime import Runtime", True),
        ("data/store.py", "from .draw import Draw", True),
        ("data/store.py", "from ..errors import UserError", True),
        ("data/store.py", "from .. import run", False),
        ("ops/pooling.py", "def f():\n    from selfsup.data.draw import Draw", False),
        ("encoder.py", "if TYPE_CHECKING:\n    from selfsup import objective", False),
        ("eval/knn.py", "import selfsup.objectives.simclr", False),
        ("objectives/mae.py", "from .simclr import Config", False),
        ("objectives/mae.py", "from selfsup.objective import Objective", True),
        ("run.py", "from selfsup import Recipe", False),
        ("cli.py", "from selfsup import load", True),
        ("__init__.py", "from .loop import train", True),
    ],
)
def test_the_layer_rule_itself(file: str, source: str, allowed: bool):
    package = ".".join(["selfsup", *file.split("/")[:-1]])
    reasons = [upward(file, name) for _, name in imports(ast.parse(source), package)]
    assert reasons and (reasons == [None]) == allowed


def test_few_files_know_of_processes():
    found = []
    for file, tree in TREES.items():
        if file in KNOW_OF_PROCESSES:
            continue
        names = list(imports_of(file))
        names += [(node.lineno, ast.unparse(node)) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        found += [
            f"{file}:{line} {name}" for line, name in names if re.match(r"(torch\.distributed|accelerate)\b", name)
        ]
    assert not found, "\n".join(found)


def test_files_and_functions_are_short():
    sizes = {file: len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) for file in TREES}
    long = [f"{file}: {size} lines" for file, size in sizes.items() if size > (199 if file == "loop.py" else 300)]
    for file, tree in TREES.items():
        spans = [(node, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions(tree)]
        long += [f"{file}:{node.lineno} {node.name}: {span} lines" for node, span in spans if span > 60]
    assert not long, "\n".join(long)


def test_names_are_nouns():
    paths = [path for folder in ("src", "tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*")]
    vague = re.compile(r"(utils?|misc|helpers?|common|base_.*)(\.py)?")
    assert [str(path.relative_to(ROOT)) for path in paths if vague.fullmatch(path.name)] == []


def test_readme_prints_the_tree():
    """Every module and folder of the package stands in the README's tree, and every file named there exists."""
    blocks = re.findall(
        r"^```[^\n]*\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    tree = next((block for block in blocks if "src/selfsup/" in block), "")
    listed = set(re.findall(r"(?<![\w.-])[\w.-]+(?:\.py\b|/)", tree))
    modules = {path.name for path in PACKAGE.glob("*.py")}
    folders = {f"{path.parent.name}/" for path in PACKAGE.glob("*/*.py")}
    assert sorted((modules | folders) - listed) == [], "missing from the tree in README.md"
    known = {
        path.name for folder in ("src", "tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")
    }
    assert sorted({name for name in listed if name.endswith(".py")} - known) == [], "README.md names what is not there"


def test_idioms_the_house_does_without():
    found = [f"{file}:{line} {what}" for file, tree in TREES.items() for line, what in offences(tree)]
    printing = {
        file: tree for file, tree in TREES.items() if file not in ("cli.py", "verbs.py", "uses.py", "searches.py")
    }
    found += [f"{file}:{line} {what}" for file, tree in printing.items() for line, what in calls(tree, {"print"})]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("getattr(x, 'y')", 1),
        ("def f(*args, **options): ...", 1),
        ("try:\n    f()\nexcept Exception:\n    pass", 1),
        ("try:\n    f()\nexcept:\n    pass", 1),
        ("try:\n    f()\nexcept (OSError, Exception) as e:\n    log(e)", 1),
        ("try:\n    f()\nexcept BaseException:\n    clean()\n    raise", 0),
        ("try:\n    f()\nexcept OSError:\n    pass", 0),
        ("def f(*args, option): ...\ndef __getattr__(name): ...", 0),
    ],
)
def test_the_idiom_rule_itself(source: str, count: int):
    assert len(list(offences(ast.parse(source)))) == count


@pytest.mark.parametrize("word", ["--help", "list"])
def test_the_command_line_starts_at_once(word: str):
    """Half a second for the whole process, best of five on a machine that may be busy; nothing heavy is imported."""
    code = f"""
import sys
sys.argv = ["selfsup", {word!r}]
from selfsup.cli import main
try:
    status = main()
except SystemExit as end:
    status = end.code
assert not status, status
print("heavy:", sorted({HEAVY!r} & sys.modules.keys()))
"""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        done = python(code)
        best = min(best, time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "heavy: []"
        assert len(done.stdout.splitlines()) > 1, f"selfsup {word} printed nothing"
        if best < 0.5:
            break
    assert best < 0.5, f"selfsup {word} took {best:.2f} s"


def test_nothing_happens_at_import():
    done = python(
        f"""
import os, sys
before = dict(os.environ)
import selfsup
assert dict(os.environ) == before, "the environment changed"
print(sorted({HEAVY!r} & sys.modules.keys()))
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
