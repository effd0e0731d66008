"""A fitted model whose expensive part runs on something faster.

That part is the backbone, or the whole of a family's own model. A copy that shares its weights is
quantised, compiled or exported, and takes its place in a copy of the model; what stands behind it
is left as it is.
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sktransformers.inference.graph import (
    InputFormat,
    Tensors,
    check_same,
    missing_library,
    session,
    some_inputs,
    unhooked,
    write_graph,
)
from sktransformers.inference.rowwise import quantise

BACKENDS = ("int8", "onnx", "onnx-int8", "compile")

# Relative error of token vectors that is taken for rounding. Rounding to eight bits moves them by
# 5 % in MiniLM, and what is wrong by about 100 %.
_TOLERANCE = {"int8": 0.25, "onnx": 1e-4, "onnx-int8": 0.25, "compile": 1e-4}
_LOW_PRECISION_TOLERANCE = 0.05  # of compiled bf16 and fp16, which round at other places

_Run = Callable[[Tensors], Tensor]


class Engine(NamedTuple):
    """A faster part, and the model that it was made from."""

    model: Any
    part: "FastPart"

    @classmethod
    def of(
        cls, model: Any, backend: str, inputs: InputFormat, autocast_dtype: torch.dtype | None
    ) -> "Engine":
        """Make a part of a model faster.

        Parameters
        ----------
        model : PreTrainedModel
            One of ours, in evaluation mode; left as it is.
        backend : str
            One of `BACKENDS`.
        inputs : InputFormat
            What the model reads.
        autocast_dtype : torch.dtype or None
            Lower precision of the forward pass, for ``"compile"``.

        Raises
        ------
        ImportError
            If a library is not installed.
        ValueError
            If there is no C++ compiler for a backend that needs one, the model is where the
            backend is not, or the backend cannot run it or gives something else.
        """
        name, field = _replaced(model)
        part = model.get_submodule(name)
        if backend != "compile" and model.device.type != "cpu":
            raise ValueError(
                f"backend={backend!r} is for the CPU, but the model is on {model.device}: "
                f'set_params(device="cpu") before fit, or take backend="compile".'
            )
        make = {"int8": _int8, "compile": _compile}.get(backend, _onnx)
        if make is not _onnx:
            _check_compiler(backend)
        lower = autocast_dtype if backend == "compile" else None
        tolerance = _TOLERANCE[backend] if lower is None else _LOW_PRECISION_TOLERANCE
        try:
            run = make(unhooked(part), field, backend, some_inputs(model, inputs))
            fast = FastPart(part.config, field, run, keeps_autocast=backend == "compile")
            with torch.inference_mode(), _autocast(model.device, lower):
                check_same(
                    lambda **given: getattr(part(**given), field),
                    lambda **given: getattr(fast(**given), field),
                    model,
                    inputs,
                    tolerance,
                )
        except ImportError:
            raise
        except Exception as error:
            raise ValueError(
                f"backend={backend!r} does not support the backbone {type(part).__name__} here: "
                f"{error}"
            ) from error
        return cls(model, fast)

    def running(self) -> Any:
        """The model with the faster part in its place."""
        name, _ = _replaced(self.model)
        model = copy.copy(self.model)
        model._modules = {**self.model._modules, name: self.part}
        return model


class FastPart(nn.Module):
    """What stands in a model for its backbone or native model.

    Parameters
    ----------
    config : PreTrainedConfig
        That of the part.
    field : str
        Name of the output.
    run : callable
        Maps inputs by their names to that output.
    keeps_autocast : bool
        Whether lower precision is left on.
    """

    def __init__(self, config: Any, field: str, run: _Run, keeps_autocast: bool):
        super().__init__()
        self.config = config
        self.field = field
        self.run = run
        self.keeps_autocast = keeps_autocast

    def forward(self, **inputs: Tensor) -> Any:
        """The output, as an attribute of the name that the part itself gives it."""
        with nullcontext() if self.keeps_autocast else torch.autocast("cpu", enabled=False):
            return SimpleNamespace(**{self.field: self.run(inputs)})


def _replaced(model: Any) -> tuple[str, str]:
    """Name of the part that is replaced, and of its output."""
    return ("native", "logits") if hasattr(model, "native") else ("backbone", "last_hidden_state")


def _autocast(device: torch.device, dtype: torch.dtype | None) -> Any:
    """As a predictor does it, or compiled code would be compiled once more for it."""
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


# ------------------------------------------------------------------ torch


def _int8(part: Any, field: str, backend: str, example: Tensors) -> _Run:
    """Linear layers in int8: weights by output, activations by token (torchao)."""
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
        from torchao.quantization.quant_primitives import MappingType
    except ImportError as error:
        raise missing_library(backend, "torchao", "int8") from error
    # What an activation function gives lies on one side of zero, and layers that make it narrower
    # read it: symmetric ranges would waste half of their numbers. Elsewhere they are faster.
    for kind, narrows in ((MappingType.ASYMMETRIC, True), (MappingType.SYMMETRIC, False)):
        quantize_(
            part,
            Int8DynamicActivationInt8WeightConfig(act_mapping_type=kind),
            partial(_is_linear, narrows=narrows),
        )
    return _compile(part, field, backend, example)


def _is_linear(module: nn.Module, name: str, narrows: bool) -> bool:
    return isinstance(module, nn.Linear) and (module.in_features > module.out_features) is narrows


def _compile(part: Any, field: str, backend: str, example: Tensors) -> _Run:
    def run(inputs: Tensors) -> Tensor:
        return getattr(part(**inputs), field)

    # torch counts compilations by code object, and gives up after a few: each part has its own.
    own = FunctionType(run.__code__.replace(), run.__globals__, closure=run.__closure__)
    # Frozen weights are packed once; without it int8 is slower than float.
    compiled = torch.compile(own, dynamic=True, options={"freezing": True})

    def run_any(inputs: Tensors) -> Tensor:
        """As `run`, of inputs that are always of the same kind to the compiler.

        Sizes of one are constants to it, and tensors made in inference mode are others: it would
        begin anew. Called in inference mode, this makes new ones.
        """
        n = len(inputs["input_ids"])
        twice = {name: torch.cat([x, x]) if n == 1 else x.clone() for name, x in inputs.items()}
        return compiled(twice)[:n]

    return run_any


def _check_compiler(backend: str) -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        raise ValueError(
            f"backend={backend!r} compiles C++ code, but no C++ compiler was found: install g++ or "
            f'clang++, name it in the environment variable CXX, or take backend="onnx-int8".'
        ) from error


# ----------------------------------------------------------- ONNX Runtime


def _onnx(part: Any, field: str, backend: str, example: Tensors) -> _Run:
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        write_graph(part, field, example, path, backend)
        if backend == "onnx-int8":
            path = _quantised(path)
        running = session(path)
    names = {given.name for given in running.get_inputs()}  # what the graph does not need is gone

    def run(inputs: Tensors) -> Tensor:
        arrays = {name: x.numpy() for name, x in inputs.items() if name in names}
        return torch.from_numpy(running.run(None, arrays)[0])

    return run


def _quantised(path: Path) -> Path:
    import onnx

    graph = onnx.load(path)
    quantise(graph)
    found = path.with_name("quantised.onnx")
    onnx.save(graph, found, save_as_external_data=path.with_name(f"{path.name}.data").exists())
    return found
