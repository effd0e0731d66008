"""The model card of a saved estimator: ``README.md``, with metadata for the hub in front."""

import math
import os
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from sklearn.base import BaseEstimator
from sklearn.utils._pprint import _changed_params

from sktransformers.persistence.models import THEIRS
from sktransformers.specs import Backbone
from sktransformers.training import loading

NAME = "README.md"
# What stands in the card for the name that others will load the model by.
_SOMEWHERE = "path/to/this/directory"
_MOST_SHOWN = 50  # classes or outputs
_MOST_LETTERS = 100  # of each
_MOST_PARAMETERS = 2000  # letters of all
_NEVER = ("token", "trust_remote_code")  # options of a backbone
_BACKBONES = ("backbone", "forward", "backward")  # parameters that name one
# The task of each class as the hub calls it, and in words.
_TASKS = {
    "TransformerSequenceClassifier": ("text-classification", "Classifies texts"),
    "TransformerSequenceRegressor": ("text-classification", "Gives texts numbers"),
    "PairClassifier": ("text-classification", "Classifies pairs of texts"),
    "PairRegressor": ("text-classification", "Gives pairs of texts numbers"),
    "TokenTagger": ("token-classification", "Tags the words of sentences"),
    "MultiTaskSequenceEstimator": ("text-classification", "Gives texts several targets at once"),
    "Text2TextGenerator": ("text-generation", "Answers texts with texts"),
    "Text2TextClassifier": ("text-classification", "Classifies texts, with a language model"),
    "MaskedLMAdapter": ("fill-mask", "A backbone whose pretraining went on with other texts"),
}
# Of a class of the user's own, which may do anything.
_OWN = ("", "An estimator of a class that is not part of sktransformers")


def check_scores(scores: Any) -> dict[str, float]:
    """Scores for a card as plain numbers; none of None.

    Raises
    ------
    TypeError
        If they are no dict of names to numbers.
    ValueError
        If a name is empty or has line breaks, or a number is not finite.
    """
    expected = 'expected a name and a number, such as {"accuracy": 0.93}'
    if scores is None:
        return {}
    if not isinstance(scores, Mapping):
        raise TypeError(f"scores={scores!r} is no dict; {expected}.")
    found = {}
    for name, value in scores.items():
        is_number = isinstance(value, Real) and not isinstance(value, (bool, np.bool_))
        if not isinstance(name, str) or not is_number:
            raise TypeError(f"scores[{name!r}] is {value!r}; {expected}.")
        if not name.strip() or not name.isprintable():
            raise ValueError(f"scores has the name {name!r}; {expected}.")
        if not math.isfinite(value):
            raise ValueError(f"scores[{name!r}] is {value!r}; expected a finite number.")
        found[name] = float(value)
    return found


def write(folder: Path, saved: Any, about: Mapping[str, Any], scores: Any) -> None:
    """Write ``README.md``.

    Parameters
    ----------
    folder : Path
    saved : Saved
        What the directory holds.
    about : dict
        What its ``sktransformers.json`` says.
    scores : dict of str to float, or None
        Figures of the user's.
    """
    scores = check_scores(scores)
    metadata = _metadata(saved, about, scores).to_yaml()
    ModelCard(f"---\n{metadata}\n---\n\n{_text(saved, about, scores)}").save(folder / NAME)


def address(folder: Path, name: str) -> None:
    """Put the name that others will load a directory by into its card."""
    path = folder / NAME
    path.write_text(path.read_text("utf-8").replace(_SOMEWHERE, name), "utf-8")


def _base(saved: Any) -> str | None:
    """The id on the hub of what the model was made from; None if that was left out, too."""
    backbone = saved.parameters.get("backbone")
    if backbone is None or "backbone__name" in saved.dropped:
        return None
    if isinstance(backbone, Backbone) and not backbone.pretrained:
        return None
    return loading.hub_id(backbone)


def _metadata(saved: Any, about: Mapping[str, Any], scores: Mapping[str, float]) -> ModelCardData:
    kind = about["class"]
    task = _task(saved, about)[0]
    tags = ["sktransformers", "scikit-learn"]
    if about["model"].get("layout") == THEIRS:
        tags.append("transformers")
    results = [_result(task, "unknown", name, value) for name, value in scores.items() if task]
    accuracy = _held_out(saved.fitted).get("valid_accuracy")
    if task and accuracy is not None and math.isfinite(accuracy):
        results.append(_result(task, "validation rows of fit", "accuracy", accuracy))
    return ModelCardData(
        base_model=_base(saved),
        library_name="sktransformers",
        pipeline_tag=task or None,
        tags=tags,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=kind,
        eval_results=results or None,
    )


def _result(task: str, data: str, name: str, value: float) -> EvalResult:
    return EvalResult(
        task_type=task,
        dataset_type="unknown",
        dataset_name=data,
        dataset_config=None if data == "unknown" else "validation",
        metric_type=name,
        metric_value=value,
    )


def _text(saved: Any, about: Mapping[str, Any], scores: Mapping[str, float]) -> str:
    base = _base(saved)
    origin = "a checkpoint that is not named here"
    if base is not None:
        origin = f"[{base}](https://huggingface.co/{base})"
    begin = (
        f"# {about['class']}\n\n{_task(saved, about)[1]}. Made from {origin} with sktransformers, "
        f"a library of scikit-learn estimators.\n\n## Use\n\n{_use(saved, about)}"
    )
    measured = _scores(saved.fitted, scores)
    sections = {
        "Outputs": _outputs(saved),
        "Data": _data(saved.fitted),
        "Scores": measured,
        "Limits": _limits(saved, about, bool(measured)),
        "Parameters": _parameters(saved, about),
        "Versions": _block(f"{name} {version}" for name, version in about["versions"].items()),
    }
    parts = [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    return "\n\n".join([begin, *parts]) + "\n"


def _task(saved: Any, about: Mapping[str, Any]) -> tuple[str, str]:
    """The task as the hub calls it, if it has a name for it, and in words."""
    task, words = _TASKS.get(about["class"], _OWN)
    config = saved.model.config
    if task and getattr(config, "is_causal", False):
        task = "text-generation"
    if config.problem_type == "multi_label_classification":
        words = words.replace("Classifies", "Gives any number of labels to")
    return task, words


def _use(saved: Any, about: Mapping[str, Any]) -> str:
    kind, fitted = about["class"], saved.fitted
    rows = '["a text", "another"]'
    if kind.startswith("Pair") or fitted.get("n_texts_") == 2:
        rows = '[("a text", "another")]'
    elif kind == "TokenTagger" and saved.parameters.get("tokenize") is None:
        rows = '[["some", "words"]]'
    call = "backbone_" if kind == "MaskedLMAdapter" else f"predict({rows})"
    lines = ["import sktransformers", "", f'model = sktransformers.load("{_SOMEWHERE}")']
    if kind not in _TASKS:
        lines = [f'model = {kind}.from_pretrained("{_SOMEWHERE}")']
    text = _block([*lines, f"model.{call}"], "python")
    if about["weights"].get("kind") != "full":
        text += "\n\nThe directory holds what differs from the backbone, which is loaded too."
    elif about["model"].get("layout") == THEIRS:
        text += "\n\nThe transformers library loads it too, without sktransformers."
    return text


def _outputs(saved: Any) -> str:
    fitted = saved.fitted
    if "task_names_" in fitted:
        tasks = zip(fitted["task_names_"], fitted["tasks_"], fitted["classes_"])
        return _listing(
            (name, kind if classes is None else f"{len(classes)} classes")
            for name, kind, classes in tasks
        )
    if "classes_" in fitted:
        classes = fitted["classes_"].tolist()
        counts = fitted.get("class_count_")
        if counts is None or not counts.any():
            return _listing((label, "") for label in classes)
        shown = zip(classes, (f"{count} training rows" for count in counts.tolist()))
        return _listing(shown)
    if "target_mean_" in fitted:
        labels = saved.model.config.id2label
        mean, scale = np.atleast_1d(fitted["target_mean_"], fitted["target_scale_"])
        about = [f"mean {m:.6g}, standard deviation {s:.6g}" for m, s in zip(mean, scale)]
        return _listing((labels[i], text) for i, text in enumerate(about))
    return ""


def _data(fitted: Mapping[str, Any]) -> str:
    lines = [f"- Training rows: {fitted['n_samples_seen_']}"]
    held_out = fitted.get("_held_out")
    if held_out is not None:
        lines.append(f"- Validation rows: {held_out['n_samples']}")
    return "\n".join([*lines, f"- Epochs: {fitted['n_iter_']}"])


def _scores(fitted: Mapping[str, Any], scores: Mapping[str, float]) -> str:
    lines = [f"- {_code(name)}: {value:.6g}" for name, value in scores.items()]
    row = _held_out(fitted)
    found = [
        f"{_code(name)} {row[name]:.6g}"
        for name in row
        if name.startswith("valid_") and isinstance(row[name], float)
    ]
    if found:
        lines.append(
            f"- Validation rows, after the epoch whose weights these are: {', '.join(found)}"
        )
    return "\n".join(lines)


def _held_out(fitted: Mapping[str, Any]) -> Mapping[str, Any]:
    """Row of the history of the epoch that validation rows chose; empty without these."""
    held_out = fitted.get("_held_out")
    return {} if held_out is None else fitted["history_"][held_out["epoch"]]


def _limits(saved: Any, about: Mapping[str, Any], is_measured: bool) -> str:
    length = saved.fitted["max_length_"]
    windows = saved.parameters.get("long_text", "truncate") != "truncate"
    windows |= about["class"] == "MaskedLMAdapter"
    how = "Longer texts are read in windows of" if windows else "Texts are cut at"
    limits = [
        f"- {how} {length} tokens.",
        "- It knows the languages of its backbone and of the training rows.",
    ]
    if is_measured:
        limits.append("- Scores are those of the rows that they were measured on.")
    return "\n".join(limits)


def _parameters(saved: Any, about: Mapping[str, Any]) -> str:
    """Parameters that are not the defaults, as Python writes them."""
    shown = [
        f"    {name}={_value(value, name)},"
        for name, value in saved.parameters.items()
        if name in saved.changed
    ]
    text = "All have their defaults." if not shown else ""
    if sum(map(len, shown)) > _MOST_PARAMETERS:
        text = "They are in `sktransformers.json`."
    elif shown:
        text = _block([f"{about['class']}(", *shown, ")"], "python")
    if saved.dropped:
        text += f"\n\nLeft out: {', '.join(map(_code, saved.dropped))}."
    return text


def _value(value: Any, name: str) -> str:
    """A parameter as Python writes it, without anything of the machine it came from."""
    if name in _BACKBONES and not isinstance(value, (Backbone, type(None))):
        found = loading.hub_id(value)
        return "..." if found is None else repr(found)
    if isinstance(value, BaseEstimator):
        options = {k: v for k, v in _changed_params(value).items() if k not in _NEVER}
        inside = (
            dict.fromkeys(("name", "tokenizer"), "backbone") if isinstance(value, Backbone) else {}
        )
        shown = (f"{k}={_value(v, inside.get(k, k))}" for k, v in options.items())
        return f"{type(value).__name__}({', '.join(shown)})"
    if isinstance(value, dict):
        inner = (f"{_value(k, '')}: {_value(v, '')}" for k, v in value.items())
        return f"{{{', '.join(inner)}}}"
    if isinstance(value, np.ndarray):
        return _value(value.tolist(), name)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(each, '') for each in value)}]"
    if isinstance(value, str):
        is_local = os.path.isabs(value) or value.startswith(("~", "./", "../")) or "\\" in value
        return "..." if is_local else repr(value)
    if isinstance(value, np.generic):
        value = value.item()
    return repr(value) if value is None or isinstance(value, (bool, Real)) else "..."


def _listing(rows: Iterable[tuple[Any, str]]) -> str:
    """Names, and what there is to say of each, in a block."""
    pairs = list(rows)
    names = [_short(repr(name)) for name, _ in pairs[:_MOST_SHOWN]]
    width = max(map(len, names), default=0)
    lines = [f"{name:{width}}  {text}".rstrip() for name, (_, text) in zip(names, pairs)]
    more = len(pairs) - _MOST_SHOWN
    return _block([*lines, f"... and {more} more"] if more > 0 else lines)


def _block(lines: Iterable[str], language: str = "text") -> str:
    """Lines that are shown as they are: none of them begins with the backticks of a fence."""
    return "\n".join([f"```{language}", *lines, "```"])


def _code(name: str) -> str:
    """A name of one line, shown as it is."""
    shown = repr(name)[1:-1].replace("`", "'")
    return f"`{shown}`"


def _short(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}..."
