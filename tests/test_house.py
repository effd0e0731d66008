"""The rules of the house (CONTRIBUTING.md): which room may import which."""

import ast
from pathlib import Path

import pytest

import sktransformers

PACKAGE = Path(sktransformers.__file__).parent
ALLOWED = {
    "specs": (),
    "modules": ("modules",),
    "inputs": ("inputs",),
    "training": ("specs", "modules", "inputs.batching", "training"),
    "inference": ("modules", "inputs.batching", "inference"),
}


def imports(path):
    """Names of the package's own modules that a file imports, without the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name.removeprefix("sktransformers.") for name in found if "sktransformers" in name}


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_rooms_below_it(room):
    files = sorted((PACKAGE / room).glob("*.py")) or [PACKAGE / f"{room}.py"]
    for file in files:
        for name in imports(file):
            assert name.startswith(ALLOWED[room]), f"{file.name} imports {name}"


def test_specs_know_no_torch():
    assert "import torch" not in (PACKAGE / "specs.py").read_text("utf-8")


def test_inputs_and_modules_keep_to_their_libraries():
    for file in (PACKAGE / "modules").glob("*.py"):
        assert "sklearn" not in file.read_text("utf-8"), file
    for file in (PACKAGE / "inputs").glob("*.py"):
        assert "torch import nn" not in file.read_text("utf-8"), file
