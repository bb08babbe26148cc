"""Rules of the house that a machine can check."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
POOL = ROOT / "src" / "vnfleet" / "training" / "engines" / "pool.py"
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def pickle_uses(path: Path) -> list[str]:
    """Everything of pickle that is used beyond naming its errors, and every torch.load that could run code."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in UNPICKLERS:
            found += [] if node.attr.endswith("Error") else [f"{node.value.id}.{node.attr}"]
        if isinstance(node, ast.ImportFrom) and node.module in UNPICKLERS:
            found += [name.name for name in node.names if not name.name.endswith("Error")]
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            safe = any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
            found += [] if safe else ["torch.load without weights_only=True"]
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"np.load", "numpy.load"}:
            safe = any(word.arg == "allow_pickle" and ast.unparse(word.value) == "False" for word in node.keywords)
            found += [] if safe else ["np.load without allow_pickle=False"]
    return found


def test_imports_go_down_only() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_nothing_is_ever_unpickled(path: Path) -> None:
    assert pickle_uses(path) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_only_the_remote_room_and_the_pool_run_programs(path: Path) -> None:
    if "subprocess" in imported(path) and path != POOL:
        assert path.parent.name == "remote"


def test_the_pool_of_processes_runs_only_vnfleet_itself() -> None:
    calls = [
        node
        for node in ast.walk(ast.parse(POOL.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("subprocess.")
    ]
    assert [ast.unparse(call.func) for call in calls] == ["subprocess.Popen"]
    assert ast.unparse(calls[0].args[0]) == "[sys.executable, '-P', '-m', _MODULE]"
    assert not [word.arg for word in calls[0].keywords if word.arg == "shell"]


def test_every_module_says_what_it_is() -> None:
    silent = [path for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert silent == []
