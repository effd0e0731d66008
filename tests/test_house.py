"""The rules of the house (CONTRIBUTING.md): which room may import which."""

import ast
import sys
from pathlib import Path

import pytest

import sktransformers

PACKAGE = Path(sktransformers.__file__).parent
BELOW = ("concurrency", "specs", "inputs", "modules", "training", "inference")
TASK = ("_docs", "course", "estimator", "fitted", "outputs", "partial", *BELOW)
# What each room, or file beside the rooms, may import of the package.
ALLOWED = {
    "_docs": (),
    "concurrency": (),
    "specs": ("specs",),
    "datasets": (),
    "files": (),
    "modules": ("modules",),
    "inputs": ("concurrency", "inputs"),
    "training": (
        "concurrency",
        "files",
        "specs",
        "modules",
        "inputs.batching",
        "plotting",
        "training",
    ),
    "inference": ("files", "modules", "inputs.batching", "inference"),
    "augmentation": BELOW,
    "course": BELOW,
    "persistence": ("specs", "augmentation", "metrics", *BELOW, "persistence"),
    "saved": (*BELOW, "persistence"),
    "searching": (),
    "fitted": (*BELOW, "saved", "searching"),
    "hf": ("modules",),
    "resuming": (*BELOW, "course"),
    "estimator": (*BELOW, "augmentation", "course", "fitted", "resuming", "saved"),
    "partial": (),
    "outputs": (
        "concurrency",
        "partial",
        "specs",
        "inputs",
        "modules.losses",
        "training.probe",
        "training.thresholds",
    ),
    "metrics": ("inputs", "text_metrics"),
    "text_metrics": ("inputs",),
    "sequence": TASK,
    "pair": TASK,
    "tagging": (*TASK, "metrics"),
    "multitask": TASK,
    "answering": TASK,
    "text2text": ("answering", "text_metrics", *TASK),
    "prompting": ("answering", *TASK),
    "adaptation": TASK,
    "plotting": (),
}
TORCH_LIBRARIES = {"torch", "transformers"}
# What each room may import of others, beside the standard library.
LIBRARIES = {
    "_docs": set(),
    "concurrency": {"threadpoolctl"},
    "specs": {"sklearn"},
    "searching": {"joblib", "sklearn"},
    "datasets": {"numpy", "sklearn"},
    "files": set(),
    "metrics": {"numpy", "sklearn"},
    "text_metrics": {"numpy", "rouge_score", "sacrebleu", "sklearn"},
    "modules": TORCH_LIBRARIES,
    "hf": {"transformers"},
    "inputs": {"nltk", "numpy", "sklearn", "torch"},
    "inference": {"numpy", "onnx", "onnxruntime", "onnxscript", "torch", "torchao"},
}


def files_of(room):
    """Files of a room, or the single file of that name."""
    return sorted((PACKAGE / room).rglob("*.py")) or [PACKAGE / f"{room}.py"]


def imports(path):
    """Dotted names of what a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


def is_inside(name, allowed):
    return any(f"{name}.".startswith(f"{room}.") for room in allowed)


def test_every_file_has_its_place():
    found = {
        path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")
    }
    assert found - {"__init__"} == set(ALLOWED)


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_rooms_below_it(room):
    for file in files_of(room):
        for name in imports(file):
            if name.split(".")[0] == "sktransformers":
                inner = name.removeprefix("sktransformers.")
                assert is_inside(inner, ALLOWED[room]), f"{file.name} imports {name}"


@pytest.mark.parametrize("room", LIBRARIES)
def test_a_room_keeps_to_its_libraries(room):
    for file in files_of(room):
        others = {name.split(".")[0] for name in imports(file)} - set(sys.stdlib_module_names)
        assert others - {"sktransformers"} <= LIBRARIES[room], file.name


def test_inputs_know_no_torch_module():
    for file in files_of("inputs"):
        for name in imports(file):
            assert not is_inside(name, ["torch.nn", "torch.optim", "torch.utils"]), file.name
        assert "torch.nn" not in file.read_text("utf-8"), file.name
        assert "torch" not in imports(file) or file.name == "batching.py", file.name


def test_the_template_names_no_task():
    tree = ast.parse((PACKAGE / "estimator.py").read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            if ast.get_docstring(node):  # which may speak of tasks
                node.body[0].value.value = ""
    code = ast.unparse(tree).lower()
    for task in ("pair", "tagger", "tagging", "classifi", "regress", "crf"):
        assert task not in code, task
