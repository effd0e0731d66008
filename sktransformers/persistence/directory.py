"""A fitted estimator as a directory: written whole or not at all, and read again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sktransformers.inference.directory import appearing, check_free
from sktransformers.persistence import info, models
from sktransformers.persistence.plain import NotPlain, from_plain, to_plain


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
    """

    parameters: dict[str, Any]
    dropped: list[str]
    fitted: dict[str, Any]
    model: Any
    tokenizer: Any


def write(path: Any, kind: str, saved: Saved, overwrite: bool) -> None:
    """Write a directory, all of it or nothing."""
    path = check_free(path, overwrite)
    about: dict[str, Any] = {
        "class": kind,
        "versions": info.versions(),
        "parameters": _plain(saved.parameters, "parameters"),
        "dropped": saved.dropped,
        "fitted": _plain(saved.fitted, "attributes"),
    }
    with appearing(path, overwrite) as folder:
        about["model"] = models.write_model(saved.model, folder)
        about["weights"] = {"kind": "full"}
        saved.tokenizer.save_pretrained(folder)
        info.write(folder, about)


def read(folder: Path, about: dict[str, Any], **options: Any) -> Saved:
    """Read a directory whose ``sktransformers.json`` is about."""
    model = models.read_model(folder, about["model"], options)
    return Saved(
        from_plain(about["parameters"], "parameters"),
        [str(name) for name in about.get("dropped", ())],
        from_plain(about["fitted"], "fitted"),
        model,
        models.read_tokenizer(folder),
    )


def _plain(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    found, bad = {}, []
    for name, value in values.items():
        try:
            found[name] = to_plain(value, name)
        except NotPlain as error:
            bad.append(str(error))
    if bad:
        raise TypeError(
            f"The {what} {', '.join(bad)} cannot be saved: JSON has no word for what they are."
        )
    return found
