"""A directory that predicts without torch: graph, tokenizer, meaning of the logits, example."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sktransformers.inference.directory import appearing, check_free
from sktransformers.inference.graph import (
    InputFormat,
    Tensors,
    check_same,
    session,
    some_inputs,
    unhooked,
    write_graph,
)
from sktransformers.modules.backbone import token_vectors

_TOLERANCE = 1e-4  # relative, of the logits of some tokens

_BEGIN = '''\
"""Predict with model.onnx. Needs onnxruntime, tokenizers and numpy."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

HERE = Path(__file__).parent
INFO = json.loads((HERE / "labels.json").read_text("utf-8"))
TOKENIZER = Tokenizer.from_file(str(HERE / "tokenizer.json"))
SESSION = onnxruntime.InferenceSession(str(HERE / "model.onnx"))
'''

_ROWS = '''

def logits(rows):
    """Logits of {rows}; the tokenizer cuts and pads them."""
    encoded = TOKENIZER.encode_batch([{row} for row in rows])
    feed = {{
        "input_ids": np.array([e.ids for e in encoded], np.int64),
        "attention_mask": np.array([e.attention_mask for e in encoded], np.int64),
        "token_type_ids": np.array([e.type_ids for e in encoded], np.int64),
    }}
    names = [given.name for given in SESSION.get_inputs()]
    return SESSION.run(None, {{name: feed[name] for name in names}})[0].astype(float)
'''

_WORDS = '''

def predict_proba(words):
    """Probability of each tag for each word of one sentence, as far as the model reads it."""
    pieces = [e.ids for e in TOKENIZER.encode_batch({words}, add_special_tokens=False)]
    pieces = [ids[: INFO["room"]] or INFO["nothing"] for ids in pieces]
    ends = np.cumsum([len(ids) for ids in pieces])
    n = int((ends <= INFO["room"]).sum())
    ids = INFO["prefix"] + sum(pieces[:n], []) + INFO["suffix"]
    feed = {{"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}}
    places = len(INFO["prefix"]) + {place}
    z = SESSION.run(None, feed)[0][0][places[:n]].astype(float)
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def predict(words):
    """Most probable tag of each word of one sentence."""
    return [INFO["classes"][i] for i in predict_proba(words).argmax(axis=1)]
'''
_PLACES = {"first": "np.append(0, ends[:-1]).astype(int)", "last": "ends - 1"}

_ANSWERS = {
    "softmax": '''

def predict_proba(rows):
    """Probability of each class."""
    z = logits(rows)
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def predict(rows):
    """Most probable class of each row."""
    return [INFO["classes"][i] for i in predict_proba(rows).argmax(axis=1)]
''',
    "sigmoid": '''

def predict_proba(rows):
    """Probability of each label."""
    return 1 / (1 + np.exp(-logits(rows)))


def predict(rows):
    """1 where a row has a label, else 0."""
    return (predict_proba(rows) > np.array(INFO["threshold"])).astype(int)
''',
    "none": '''

def predict(rows):
    """Number of each row, or its numbers."""
    found = logits(rows) * INFO["target_scale"] + INFO["target_mean"]
    return found if isinstance(INFO["target_mean"], list) else found[:, 0]
''',
}

# Texts that a tokenizer must read as the encoder does; one that is too long is added.
_PROBES = ("a", "A word, and Ünother 0.1", "中文 text")


class _Whole(nn.Module):
    """Logits of each sequence, or of each of its tokens."""

    def __init__(self, model: Any, by_token: bool):
        super().__init__()
        self.model = model
        self.by_token = by_token

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **types: Tensor) -> Any:
        model = self.model
        if hasattr(model, "native"):
            return SimpleNamespace(logits=model.logits(input_ids, attention_mask, **types))
        hidden = token_vectors(model.backbone, input_ids, attention_mask, **types)
        if not self.by_token:
            hidden = model.pooling(hidden, attention_mask)
        elif model.config.self_attention:
            hidden = model.self_attention(hidden, attention_mask)
        return SimpleNamespace(logits=model.head(hidden))


def write_directory(
    path: Any,
    model: Any,
    tokenizer: Any,
    encoder: Any,
    inputs: InputFormat,
    meaning: dict[str, Any],
) -> None:
    """Write a directory, all of it or nothing.

    Parameters
    ----------
    path : str or path-like
        Must not exist, or be an empty directory.
    model : PreTrainedModel
        One of ours, in evaluation mode, whose rows are one sequence each.
    tokenizer : transformers tokenizer
    encoder : TextEncoder, PairEncoder or WordEncoder
        What the estimator reads rows with.
    inputs : InputFormat
        What the model reads.
    meaning : dict
        What ``labels.json`` says; ``rows`` is "texts", "pairs" or "words", and ``apply``
        "softmax", "sigmoid" or "none".

    Raises
    ------
    FileExistsError
        If there is something at path.
    ImportError
        If the extra ``onnx`` is not installed.
    ValueError
        If the tokenizer cannot be written or does not read texts as the encoder does, labels are
        nothing that JSON has, or the exported model gives something else.
    """
    path = check_free(path)
    meaning = {**meaning, "max_length": inputs.max_length, "pad_id": inputs.pad_id}
    if meaning["rows"] == "words":
        meaning |= {name: getattr(encoder, name) for name in ("prefix", "suffix", "room")}
        meaning["nothing"] = encoder.nothing
    try:
        labels = json.dumps(meaning, indent=1, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"labels.json cannot hold the classes: {error}. They must be str, numbers or booleans."
        ) from error
    backend = _tokenizer(tokenizer, encoder, inputs, meaning["rows"])

    with appearing(path) as folder:
        _write_model(model, inputs, folder / "model.onnx", meaning["rows"] == "words")
        backend.save(str(folder / "tokenizer.json"))
        (folder / "labels.json").write_text(labels, "utf-8")
        (folder / "predict.py").write_text(_example(meaning, encoder), "utf-8")


def _write_model(model: Any, inputs: InputFormat, path: Path, by_token: bool) -> None:
    # On the CPU, where it will run.
    module = unhooked(model)
    if model.device.type != "cpu":
        module = copy.deepcopy(module).to("cpu")
    whole = _Whole(module, by_token)
    try:
        write_graph(whole, "logits", some_inputs(module, inputs), path, "export_onnx")
        running = session(path)

        def run(**given: Tensor) -> Tensor:
            return torch.from_numpy(running.run(None, _arrays(running, given))[0])

        with torch.inference_mode():
            check_same(lambda **given: whole(**given).logits, run, module, inputs, _TOLERANCE)
    except ImportError:
        raise
    except Exception as error:
        part = getattr(model, "native", model.backbone)
        raise ValueError(
            f"export_onnx does not support the model around {type(part).__name__}: {error}"
        ) from error


def _arrays(running: Any, given: Tensors) -> dict[str, np.ndarray]:
    names = {x.name for x in running.get_inputs()}
    return {name: x.numpy() for name, x in given.items() if name in names}


def _tokenizer(tokenizer: Any, encoder: Any, inputs: InputFormat, rows: str) -> Any:
    """The tokenizer itself, which cuts and pads as the encoder does."""
    if not tokenizer.is_fast:
        raise ValueError(
            f"export_onnx writes tokenizer.json, but {type(tokenizer).__name__} is no fast "
            f"tokenizer and has none."
        )
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    if rows == "words":  # these are cut and put together by hand
        return backend
    backend.enable_truncation(inputs.max_length, strategy="longest_first", direction="right")
    backend.enable_padding(
        direction="right",
        pad_id=inputs.pad_id,
        pad_token=backend.id_to_token(inputs.pad_id) or "",
    )
    texts: list[Any] = [*_PROBES, "word " * inputs.max_length]
    if rows == "pairs":
        texts = [(a, b) for a in texts for b in texts]
    expected = encoder.encode(texts).encoded
    for i, found in enumerate(backend.encode_batch(texts)):
        n = sum(found.attention_mask)
        places = np.arange(n)
        types = places >= expected.second[i] if inputs.is_typed else np.zeros(n)
        same = found.ids[:n] == expected.sequences.row(i).tolist()
        if not same or (inputs.is_typed and found.type_ids[:n] != types.astype(int).tolist()):
            raise ValueError(
                f"The tokenizer {type(tokenizer).__name__} by itself does not put the tokens of "
                f"{rows} together as the estimator does, so that export_onnx cannot write it."
            )
    return backend


def _example(meaning: dict[str, Any], encoder: Any) -> str:
    """What ``predict.py`` says."""
    if meaning["rows"] == "words":
        words = '[w and " " + w.removeprefix(" ") for w in words]' if encoder.spaced else "words"
        return _BEGIN + _WORDS.format(words=words, place=_PLACES[meaning["subword"]])
    row = "tuple(row)" if meaning["rows"] == "pairs" else "row"
    rows = "pairs of texts" if meaning["rows"] == "pairs" else "texts"
    return _BEGIN + _ROWS.format(row=row, rows=rows) + _ANSWERS[meaning["apply"]]
