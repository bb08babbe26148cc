"""Every command is documented, explains itself, and starts quickly."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

from vnfleet.cli.main import app, main

ROOT = Path(__file__).parents[2]
PROMISED = [
    "demo",
    "collect",
    "check",
    "features",
    "train",
    "evaluate",
    "backtest",
    "cycle",
    "worker",
    "releases",
    "deploy",
    "rollback",
    "predict",
    "export-onnx",
    "status",
    "doctor",
]


def leaves(group: TyperGroup, before: str = "") -> list[str]:
    """Every command under `group` the way it is typed: "collect", "data pack"."""
    found: list[str] = []
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            found += leaves(command, f"{before}{name} ")
        else:
            found.append(before + name)
    return sorted(found)


COMMANDS = tuple(leaves(typer.main.get_command(app)))  # type: ignore[arg-type]


def test_the_promised_commands_are_there_and_no_other() -> None:
    grouped = {
        "bench": ("infer", "plan", "train"),
        "data": ("pack", "unpack"),
        "remote": ("audit", "check", "init", "setup", "sync"),
    }
    inside = [f"{group} {name}" for group, names in grouped.items() for name in names]
    assert sorted([*PROMISED, *inside]) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    said = capsys.readouterr().out
    assert f"vnfleet {command}" in said
    assert "Example:" in said
    assert "--json" in said
    assert "--workdir" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_mentions_every_command(command: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"vnfleet {command}\b|`{command}`", readme), f"`vnfleet {command}` is not in README.md"


def test_help_answers_without_loading_torch_or_polars() -> None:
    code = (
        "import sys; from vnfleet.cli.main import main; main(['--help']);"
        "print(sorted({'torch', 'polars'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
