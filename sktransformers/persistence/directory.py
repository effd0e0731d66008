"""A fitted estimator as a directory: written whole or not at all, and read again."""

import errno
import json
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError

from sktransformers.inference.directory import appearing, check_free
from sktransformers.persistence import card, checks, info, models, weights
from sktransformers.persistence.errors import SavedModelError
from sktransformers.persistence.plain import NotPlain, all_from_plain, all_to_plain
from sktransformers.training import runtime

WEIGHTS = ("auto", "full", "delta")
FORMATS = ("auto", "transformers", "sktransformers")


class How(NamedTuple):
    """How a directory is written: the options of ``save_pretrained``."""

    weights: str = "auto"
    format: str = "auto"
    overwrite: bool = False
    scores: Mapping[str, float] | None = None

    def check(self) -> None:
        """Check the values.

        Raises
        ------
        TypeError, ValueError
            If one is not as ``save_pretrained`` describes it.
        """
        for name, value, known in (
            ("weights", self.weights, WEIGHTS),
            ("format", self.format, FORMATS),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, known))}.")
        if not isinstance(self.overwrite, (bool, np.bool_)):
            raise TypeError(f"overwrite={self.overwrite!r} must be True or False.")
        card.check_scores(self.scores)


class Saved(NamedTuple):
    """What a directory holds.

    Parameters
    ----------
    parameters : dict
        Parameters of the estimator; those that were left out are not in it.
    dropped : list of str
        Names of those, options separated as in ``set_params``.
    fitted : dict
        Fitted attributes but for the model and the tokenizer.
    model : PreTrainedModel
    tokenizer : transformers tokenizer
    moments : Moments or None
        State of the optimizer.
    changed : collection of str
        Names of the parameters that are not the defaults.
    files : dict of str to object
        What else is written: JSON by the names of the files.
    """

    parameters: dict[str, Any]
    dropped: list[str]
    fitted: dict[str, Any]
    model: Any
    tokenizer: Any
    moments: Any = None
    changed: Collection[str] = ()
    files: Mapping[str, Any] = MappingProxyType({})


class Read(NamedTuple):
    """What is read of a directory beside its ``sktransformers.json``."""

    model: Any
    tokenizer: Any
    moments: Any = None


def write(path: Any, kind: str, saved: Saved, how: How) -> None:
    """Write a directory, all of it or nothing."""
    path = check_free(path, how.overwrite, info.foreign)
    about: dict[str, Any] = {
        "class": kind,
        "versions": info.versions(),
        "dropped": saved.dropped,
        **_plain(saved),
    }
    try:
        with appearing(path, how.overwrite, info.foreign) as folder:
            with _drawing_nothing():
                about |= weights.write(saved, folder, how)
            models.write_tokenizer(saved.model, models.Reading.of(saved), folder)
            for name, content in saved.files.items():
                file = folder / name
                file.parent.mkdir(exist_ok=True)
                file.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
            checks.tidy(folder)
            about["model"] = checks.tidied(about["model"])
            card.write(folder, saved, about, how.scores)
            info.write(folder, about)
            checks.check_files(folder)
    except Exception as error:
        is_ours = isinstance(error, FileExistsError) and error.errno is None  # of `check_free`
        # The others are what the libraries below make of an error of the disk.
        of_disk = isinstance(error, (OSError, SafetensorError)) or type(error) is Exception
        if is_ours or not of_disk:
            raise
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: Exception) -> OSError:
    why = getattr(error, "strerror", None) or str(error)
    text = f"{str(path)!r} could not be written, and what was there is as it was: {why}."
    return OSError(getattr(error, "errno", None) or errno.EIO, text)


def values(folder: Path, about: Mapping[str, Any], what: str) -> dict[str, Any]:
    """What ``sktransformers.json`` says of ``"parameters"`` or ``"fitted"`` attributes."""
    return all_from_plain(about[what], f"{str(folder / info.NAME)!r}: {what}")


def read(folder: Path, about: dict[str, Any], backbone: Any) -> Read:
    """Read what is in other files of a directory.

    Parameters
    ----------
    folder : Path
    about : dict
        What its ``sktransformers.json`` says.
    backbone : str, path, Backbone or PreTrainedModel
        The estimator's parameter: where the pretrained backbone lies.
    """
    with _drawing_nothing():
        model = weights.read(folder, about, backbone)
    found = Read(model, models.read_tokenizer(folder), weights.read_moments(folder, about))
    n_tokens = len(found.tokenizer)
    rows = found.model.backbone.get_input_embeddings().weight.shape[0]
    if n_tokens > rows:
        raise SavedModelError(
            f"{str(folder / 'tokenizer.json')!r} has {n_tokens} tokens, but the embedding of the "
            f"model {rows} rows."
        )
    return found


def _drawing_nothing() -> AbstractContextManager:
    """Keeps torch's random states: layers are drawn before they get their weights."""
    return runtime.seeded(0, torch.device("cpu"))


def _plain(saved: Saved) -> dict[str, Any]:
    """Parameters and attributes as JSON can hold them."""
    try:
        fitted = all_to_plain(dict(sorted(saved.fitted.items())))
    except NotPlain as error:
        raise TypeError(
            f"Fitted attributes cannot be saved, as JSON has no word for what they are: {error}."
        ) from None
    try:
        return {"parameters": all_to_plain(saved.parameters), "fitted": fitted}
    except NotPlain as error:
        raise TypeError(
            f"Parameters cannot be saved, as JSON has no word for what they are: {error}. Leave "
            f"them out with drop={list(error.found)!r}: load gives them their defaults then, or "
            f"what it is told."
        ) from None
