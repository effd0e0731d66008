"""Fitted estimators that are written as directories, and read from them."""

import copy
import importlib
import inspect
import os
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from sktransformers.inputs.encoding import private_tokenizer
from sktransformers.modules.dispatch import check_in_one_place
from sktransformers.modules.summary import DroppedHead, ModelSummary, PartSummary
from sktransformers.persistence import directory, info
from sktransformers.persistence.errors import SavedModelError
from sktransformers.training import runtime

_CLASSES = (
    "TransformerSequenceClassifier",
    "TransformerSequenceRegressor",
    "PairClassifier",
    "PairRegressor",
    "TokenTagger",
    "MultiTaskSequenceEstimator",
    "Text2TextGenerator",
    "Text2TextClassifier",
    "MaskedLMAdapter",
)
# Parameters of the machine that trained.
_OF_THE_MACHINE = ("memory",)
# Attributes with places of their own, or none: what training alone needs, and the user's rows.
_APART = (
    "_engine",
    "_frozen",
    "_moments",
    "_reservoir",
    "_summary",
    "backend_",
    "model_",
    "net_",
    "tokenizer_",
)


class SavedTransformer(BaseEstimator):
    """``save_pretrained`` and its like, of estimators with ``model_`` and ``tokenizer_``."""

    def save_pretrained(self, path, *, drop=(), overwrite=False):
        """Write the fitted estimator as a directory that holds no code.

        Parameters
        ----------
        path : str or path-like
            The directory. It appears when all is written; what an earlier call wrote there is
            replaced.
        drop : list of str, default=()
            Parameters that are not saved, such as ``"callbacks"``; of the options of one,
            ``"optimizer__betas"``. `load` gives them their defaults, and says so.
        overwrite : bool, default=False
            Whether the directory takes the place of any other.

        Raises
        ------
        FileExistsError
            If there is something else at path.
        TypeError
            If JSON cannot hold a parameter; the message names all of these.
        """
        check_is_fitted(self)
        check_in_one_place(self.model_, "save_pretrained()")
        saved = directory.Saved(
            self._kept_parameters(drop),
            list(drop),
            self._saved_attributes(),
            self.model_,
            self.tokenizer_,
        )
        directory.write(path, type(self).__name__, saved, overwrite)

    def save(self, path, **options):
        """Write the fitted estimator as a directory; the same as ``save_pretrained``."""
        self.save_pretrained(path, **options)

    def _kept_parameters(self, drop: Collection[str]) -> dict[str, Any]:
        """Parameters but for those that are left out."""
        params = self.get_params(deep=False)
        for name in _OF_THE_MACHINE:
            params.pop(name, None)
        for name in drop:
            first, _, rest = name.partition("__")
            if first not in params:
                raise ValueError(
                    f"drop={list(drop)!r} names {name!r}, which is no parameter of "
                    f"{type(self).__name__}."
                )
            if rest:
                params[first] = _with_default(params[first], rest, name)
            else:
                del params[first]
        return params

    def _saved_attributes(self) -> dict[str, Any]:
        """Fitted attributes in types that are known, but for the model and the tokenizer."""
        apart = {*self._get_param_names(), *_APART}
        found = {k: v for k, v in vars(self).items() if k not in apart and not k.startswith("_skl")}
        summary = self._summary
        found["_summary"] = [
            [list(part) for part in summary.parts],
            summary.n_blocks,
            summary.dropped_head and list(summary.dropped_head),
        ]
        return found

    def _set_saved_attributes(self, found: dict[str, Any]) -> None:
        """Set what `_saved_attributes` gave."""
        parts, n_blocks, head = found.pop("_summary")
        self._summary = ModelSummary(
            tuple(PartSummary(*part) for part in parts), n_blocks, head and DroppedHead(*head)
        )
        self.__dict__.update(found)

    @classmethod
    def _from_saved(cls, folder: Path, about: dict[str, Any], params: dict[str, Any]) -> Any:
        """The estimator of a directory, with some parameters of one's own."""
        if about["class"] != cls.__name__:
            raise SavedModelError(
                f"{str(folder)!r} holds a {about['class']}, and no {cls.__name__}: "
                f"sktransformers.load reads any."
            )
        saved = directory.read(folder, about)
        estimator = cls(**{**saved.parameters, **params})
        estimator._validate_params()
        estimator._set_saved_attributes(saved.fitted)
        estimator.model_ = saved.model
        estimator.tokenizer_ = private_tokenizer(saved.tokenizer)
        estimator._place()
        if set(saved.dropped) - set(params):
            warnings.warn(
                f"Parameters that were left out of {str(folder)!r} have their defaults: "
                f"{', '.join(saved.dropped)}.",
                UserWarning,
                stacklevel=4,
            )
        return estimator

    def _place(self) -> None:
        """Bring a model that was read on the CPU to where ``device`` says, if that is there."""
        try:
            self.model_.to(runtime.resolve_device(self.device))
        except ValueError as error:
            warnings.warn(f"{error} The model stays on the CPU.", stacklevel=3)


def load(path, **params):
    """Read a fitted estimator that ``save_pretrained`` wrote.

    Parameters
    ----------
    path : str or path-like
        The directory.
    **params
        Parameters of the estimator that are to be others than when it was saved, such as
        ``device="cpu"``.

    Returns
    -------
    estimator : object
        Of the class that was saved.

    Raises
    ------
    SavedModelError
        If the directory is damaged or incomplete, of a newer format, or none of ours.
    """
    folder = Path(path)
    about = info.read(folder)
    if about["class"] not in _CLASSES:
        raise SavedModelError(
            f"{str(folder)!r} holds a {about['class']!r}, which is no estimator of sktransformers."
        )
    kind = getattr(importlib.import_module("sktransformers"), about["class"])
    return kind._from_saved(folder, about, params)


def is_saved(name: Any) -> bool:
    """Whether a name is that of a directory that ``save_pretrained`` wrote."""
    return isinstance(name, (str, os.PathLike)) and (Path(name) / info.NAME).is_file()


def _with_default(value: Any, name: str, whole: str) -> Any:
    """A copy of an option object with the default of one of its options."""
    first, _, rest = name.partition("__")
    signature = inspect.signature(type(value).__init__).parameters
    if first not in signature:
        raise ValueError(f"drop names {whole!r}, but {value!r} has no option {first!r}.")
    new = copy.copy(value)
    option = getattr(value, first)
    setattr(new, first, _with_default(option, rest, whole) if rest else signature[first].default)
    return new
