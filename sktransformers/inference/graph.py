"""ONNX graphs of models, and whether something else gives what a model gives."""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sktransformers.modules.narrowing import widen

Tensors = dict[str, Tensor]

_SHAPES = ((3, 7), (2, 12))  # sequences and tokens of what is tried


class InputFormat(NamedTuple):
    """What a model reads, as far as an example of it goes.

    Parameters
    ----------
    pad_id : int
        Id of the padding token.
    max_length : int
        Most tokens of a sequence.
    is_typed : bool
        Whether it is told where the second text of a pair begins.
    """

    pad_id: int
    max_length: int
    is_typed: bool


def some_inputs(model: Any, form: InputFormat, shape: tuple[int, int] = _SHAPES[0]) -> Tensors:
    """Random tokens, right-padded, as ``(n_sequences, length)`` or as long as the model reads."""
    n, length = shape[0], min(shape[1], form.max_length)
    draws = torch.Generator().manual_seed(0)
    n_tokens = model.backbone.config.get_text_config().vocab_size
    ids = torch.randint(n_tokens, (n, length), generator=draws)
    mask = torch.arange(length) < length - torch.arange(n)[:, None].clamp(max=length - 1)
    inputs = {"input_ids": ids.where(mask, form.pad_id), "attention_mask": mask.long()}
    if form.is_typed:
        inputs["token_type_ids"] = (mask & (torch.arange(length) >= length // 2)).long()
    return {name: x.to(model.device) for name, x in inputs.items()}


def check_same(
    expected: Callable[..., Tensor],
    found: Callable[..., Tensor],
    model: Any,
    form: InputFormat,
    tolerance: float,
) -> None:
    """Check that two functions give the same for tokens of several shapes, padding aside.

    Raises
    ------
    ValueError
        If the relative error, of Frobenius norms, is above the tolerance.
    """
    for shape in _SHAPES:
        inputs = some_inputs(model, form, shape)
        right, got = expected(**inputs).float(), found(**inputs).float()
        if right.ndim == 3:  # a vector or logits a token
            right, got = (x[inputs["attention_mask"].bool()] for x in (right, got))
        error = float((got - right).norm() / right.norm())
        if not error <= tolerance:  # NaN is none
            raise ValueError(
                f"its outputs differ by {error:.2g} of their size, more than {tolerance:g}."
            )


def unhooked(module: nn.Module) -> Any:
    """A copy that shares the weights and computes all tokens, to be quantised or traced."""
    weights: dict[int, Any] = {id(weight): weight for weight in module.parameters()}
    module = copy.deepcopy(module, weights)
    widen(module)
    return module


class _Output(nn.Module):
    """A model that gives one of its outputs as a tensor."""

    def __init__(self, model: Any, field: str):
        super().__init__()
        self.model = model
        self.field = field

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, **types)
        return getattr(found, self.field)


def write_graph(model: Any, field: str, example: Tensors, path: Path, what: str) -> None:
    """Write the ONNX graph of a model, for any number and length of sequences.

    Parameters
    ----------
    model : Module
        In evaluation mode; reads tensors by the names in example.
    field : str
        Attribute of what it gives that is the output.
    example : dict of str to Tensor
        Inputs that it is traced with.
    path : Path
        Where; weights of more than 2 GB stand in a file beside it.
    what : str
        What needs it, for the error.

    Raises
    ------
    ImportError
        If the extra ``onnx`` is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_library(what, str(error.name), "onnx") from error
    any_size = torch.export.Dim.DYNAMIC
    with _quiet(), torch.no_grad():
        program: Any = torch.onnx.export(
            _Output(model, field).eval(),
            kwargs=example,
            dynamo=True,
            dynamic_shapes={name: {0: any_size, 1: any_size} for name in example},
            input_names=list(example),
            output_names=[field],
            verbose=False,
        )
        program.save(path)


def session(path: Path) -> Any:
    """ONNX Runtime on the CPU, with as many threads as torch has now."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def missing_library(what: str, library: str, extra: str) -> ImportError:
    """The error about a library that an extra brings."""
    return ImportError(f"{what!r} needs {library}: pip install sktransformers[{extra}]")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of libraries that nobody needs here."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
