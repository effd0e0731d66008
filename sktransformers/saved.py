"""Fitted estimators that are written as directories, and read from them."""

import importlib
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._pprint import _changed_params
from sklearn.utils.validation import check_is_fitted

from sktransformers.concurrency import of_one_fit
from sktransformers.inference.directory import recover, steadily
from sktransformers.inputs.encoding import keep_all_tokens, users_level
from sktransformers.modules.dispatch import check_in_one_place
from sktransformers.modules.summary import DroppedHead, ModelSummary, PartSummary
from sktransformers.persistence import checks, directory, dropping, hub, info
from sktransformers.persistence.errors import SavedModelError
from sktransformers.specs import Backbone
from sktransformers.training import loading, runtime

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
# Attributes with places of their own, or none: what training alone needs.
_APART = ("backend_", "model_", "net_", "tokenizer_")
# What else of ours is saved, beside attributes that end in an underscore.
_PRIVATE = ("_csr", "_held_out", "_summary", "_y_like")
# What transformers, and we, have written: a saved model holds no code of anybody else's.
_KNOWN_CODE = {"peft", "sktransformers", "torch", "transformers"}


class SavedTransformer(BaseEstimator):
    """``save_pretrained`` and its like, of estimators with ``model_`` and ``tokenizer_``.

    Parameters ``backbone`` and ``device`` are read.
    """

    backbone: Any
    device: Any
    history_: list[dict[str, Any]]
    model_: Any
    tokenizer_: Any
    _summary: ModelSummary

    @of_one_fit
    def save_pretrained(
        self, path, *, weights="auto", format="auto", drop=(), overwrite=False, scores=None
    ):
        """Write the fitted estimator as a directory, all of it or nothing.

        The directory holds ``config.json``, ``model.safetensors``, the files of the tokenizer,
        ``sktransformers.json`` (class, parameters, fitted attributes, versions) and a model card.
        There is no code in it and no pickle, and reading it runs nothing. `sktransformers.load`
        gives the estimator back.

        Parameters
        ----------
        path : str or path-like
            The directory. It appears when all is written. One that an earlier call wrote is
            replaced.
        weights : {"auto", "full", "delta"}, default="auto"
            Which weights are written.

            - ``"auto"``: after ``finetune=LoRA()`` the adapters and the head, with the name and
              the revision of the backbone, which `load` needs then; else all.
            - ``"full"``: all, with adapters merged.
            - ``"delta"``: the tensors that differ from those of the pretrained backbone, which
              `load` needs then.
        format : {"auto", "transformers", "sktransformers"}, default="auto"
            How weights and configuration are laid out.

            - ``"auto"``: as the transformers library does it if its classes can express the model,
              else as our own classes do.
            - ``"transformers"``: for ``AutoModelForSequenceClassification`` and its like, without
              this package.
            - ``"sktransformers"``: by our own classes, always.
        drop : list of str, default=()
            Parameters that are not saved, such as ``"callbacks"``; of the options of one,
            ``"backbone__tokenizer"``. `load` gives them their defaults, and says so.
        overwrite : bool, default=False
            Whether the directory takes the place of any other.
        scores : dict of str to float, default=None
            Figures for the model card, such as ``{"accuracy": 0.93}``.

        Raises
        ------
        FileExistsError
            If there is something else at path.
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If JSON cannot hold a parameter, such as a callback; the message names all of these.
        ValueError
            If an option is not as described, ``drop`` names no parameter, or the model cannot be
            written with these ``weights`` or in this ``format``.

        Notes
        -----
        Not in the directory are the user's texts (``replay``, and of ``history_`` all but numbers),
        ``net_``, ``memory``, ``token`` and ``trust_remote_code`` of a `Backbone`, callbacks of
        scikit-learn, requests of its metadata routing, and what ``accelerate`` makes: the plain
        model is saved.

        Examples
        --------
        >>> clf.fit(X, y).save_pretrained("my-model")  # doctest: +SKIP
        >>> sktransformers.load("my-model").predict(X)  # doctest: +SKIP
        """
        check_is_fitted(self)
        how = directory.How(weights, format, overwrite, scores)
        how.check()
        _check_path(path)
        self._validate_params()
        check_in_one_place(self.model_, "save_pretrained()")
        _check_code(self.model_)
        names = dropping.names_of(drop)
        saved = directory.Saved(
            dropping.kept(self, names),
            names,
            self._saved_attributes(),
            self.model_,
            self.tokenizer_,
            getattr(self, "_moments", None),
            list(_changed_params(self)),
            self._saved_files(),
        )
        directory.write(path, type(self).__name__, saved, how)

    def save(self, path, **options):
        """Write the fitted estimator as a directory; the same as ``save_pretrained``.

        Parameters
        ----------
        path : str or path-like
            The directory.
        **options
            Those of ``save_pretrained``.
        """
        self.save_pretrained(path, **options)

    def push_to_hub(
        self,
        repo_id,
        *,
        token=None,
        private=None,
        revision=None,
        commit_message="Upload with sktransformers",
        create_pr=False,
        **options,
    ):
        """Write the fitted estimator to a repository of the Hugging Face hub.

        It is saved to a temporary directory, with a model card, and uploaded by huggingface_hub.
        `sktransformers.load` and ``from_pretrained`` take the id of the repository. What an
        earlier call wrote there is replaced, other files of the repository stay.

        Parameters
        ----------
        repo_id : str
            Id of the repository, such as ``"user/name"``. It is made if there is none.
        token : str or bool, default=None
            Access token that may write; None means the one that ``hf auth login`` stored.
        private : bool, default=None
            Whether a new repository is private. None means what the hub has as its default.
        revision : str, default=None
            Branch to write to, which is made if there is none. None means the main one.
        commit_message : str, default="Upload with sktransformers"
            Message of the commit.
        create_pr : bool, default=False
            Whether the commit is proposed as a pull request to the main branch.
        **options
            Those of ``save_pretrained``, such as ``scores``.

        Returns
        -------
        commit : huggingface_hub.CommitInfo
            As the client returns it: ``commit_url``, ``oid``, ``pr_url``, ...

        Raises
        ------
        ConnectionError
            If the client cannot upload. The message does not show the token.
        NotFittedError, TypeError, ValueError
            If ``repo_id`` is none, create_pr goes with a revision, or as ``save_pretrained``
            raises them. Nothing is sent then.

        Examples
        --------
        >>> clf.push_to_hub("user/my-model", private=True)  # doctest: +SKIP
        >>> sktransformers.load("user/my-model")  # doctest: +SKIP
        """
        check_is_fitted(self)
        hub.check_id(repo_id)
        if create_pr and revision is not None:
            raise ValueError(
                f"create_pr=True and revision={revision!r} contradict each other: a pull request "
                f"is to the main branch."
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model")
            self.save_pretrained(path, **options)
            return hub.upload(
                path,
                repo_id,
                token=token,
                private=private,
                revision=revision,
                commit_message=commit_message,
                create_pr=create_pr,
                verbose=bool(self.verbose),
            )

    @classmethod
    def from_pretrained(cls, name, *, revision=None, token=None, **params):
        """Estimator that predicts with a saved model, or a fine-tuned checkpoint, as it is.

        Parameters
        ----------
        name : str, path, Backbone or PreTrainedModel
            What ``save_pretrained`` or ``push_to_hub`` of this class wrote: a directory, or an id
            on the Hugging Face hub. Or a checkpoint of the transformers library: likewise, or a
            `Backbone` with options, or a loaded model with its head.
        revision : str, default=None
            Branch, tag or commit of a repository on the hub; None means its main branch.
        token : str or bool, default=None
            For a private repository; None means the one that ``hf auth login`` stored.
        **params
            Parameters of the estimator. Of a saved model those that are to be others than when it
            was saved; of a checkpoint all but ``backbone`` and ``head``, which are ``name`` and
            that of its family.

        Returns
        -------
        estimator : object
            A saved model is as it was. Of a checkpoint it is as after ``fit``, without ``lr_`` and
            ``net_``, and gives the logits of the transformers library's own model for the task;
            labels are the names that it has for its outputs (``id2label``), as str; like those of
            ``fit`` they are sorted, and the outputs with them. Numbers come as it gives them.
            ``fit`` starts over from the checkpoint with a new last layer; with
            ``warm_start=True``, and ``partial_fit``, training goes on.

        Raises
        ------
        SavedModelError
            If a saved model is damaged, of another class, or of a newer format.
        ValueError
            If a checkpoint cannot be loaded, has no trained head, or one for another task.
        """
        find = hub.find if is_saved(name) else hub.find_id
        folder = find(name, revision, token, bool(params.get("verbose")))
        if folder is not None:
            return steadily(folder, lambda: cls._from_saved(folder, info.read(folder), params))
        if revision is not None or token is not None:
            name = _at_revision(name, revision, token)
        place = name.name if isinstance(name, Backbone) else name
        if isinstance(place, (str, os.PathLike)) and os.path.isdir(os.path.expanduser(place)):
            checks.check_checkpoint(Path(os.path.expanduser(place)))
        return cls._from_checkpoint(name, **params)

    @classmethod
    def _from_checkpoint(cls, name: Any, **params: Any) -> Any:
        """`from_pretrained` of what the transformers library wrote."""
        raise NotImplementedError

    def _saved_attributes(self) -> dict[str, Any]:
        """Fitted attributes in types that are known, but for the model and the tokenizer."""
        kind = type(self)
        found = {name: value for name, value in vars(self).items() if _is_saved(kind, name)}
        # What callbacks of others record may be anything, the user's texts too.
        found["history_"] = [
            {name: value for name, value in row.items() if _is_numbers(value)}
            for row in self.history_
        ]
        summary = self._summary
        found["_summary"] = [
            [list(part) for part in summary.parts],
            summary.n_blocks,
            summary.dropped_head and list(summary.dropped_head),
        ]
        return found

    def _set_saved_attributes(self, found: dict[str, Any], folder: Path) -> None:
        """Set what `_saved_attributes` gave."""
        parts, n_blocks, head = found.pop("_summary")
        self._summary = ModelSummary(
            tuple(PartSummary(*part) for part in parts), n_blocks, head and DroppedHead(*head)
        )
        self.__dict__.update(found)

    def _check_saved_attributes(self) -> None:
        """Check that fitted attributes are what ``fit`` gives, as far as predictions need them.

        Raises
        ------
        AttributeError, TypeError, ValueError
            If one is missing, or is something else.
        """
        rows = self.history_
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError("history_ is no list of dicts")
        for name in ("max_length_", "n_iter_", "n_blocks_", "n_parameters_"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ValueError(f"{name} is {value!r}")

    def _saved_files(self) -> dict[str, Any]:
        """What else is written: JSON by the names of the files."""
        return {}

    @classmethod
    def _from_saved(cls, folder: Path, about: dict[str, Any], params: dict[str, Any]) -> Any:
        """The estimator of a directory, with some parameters of one's own."""
        if about["class"] != cls.__name__:
            raise SavedModelError(
                f"{str(folder)!r} holds a {about['class']}, and no {cls.__name__}: "
                f"sktransformers.load reads any of sktransformers."
            )
        estimator = cls._with_parameters(folder, about, params)
        found = directory.values(folder, about, "fitted")
        odd = [name for name in found if not _is_saved(cls, name)]
        read = directory.read(folder, about, estimator.backbone)
        estimator.model_ = read.model
        estimator.tokenizer_ = read.tokenizer
        keep_all_tokens(read.tokenizer)
        try:
            if odd:
                raise ValueError(f"{odd[0]!r} is no fitted attribute of a {cls.__name__}")
            estimator._set_saved_attributes(found, folder)
            estimator._check_saved_attributes()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SavedModelError(f"{str(folder / info.NAME)!r} is damaged: {error}.") from error
        if read.moments is not None:
            estimator._moments = read.moments
        estimator._settle()
        estimator._place()
        left_out = [name for name in about["dropped"] if not dropping.covers(params, str(name))]
        if left_out:
            warnings.warn(
                f"Parameters that were left out of {str(folder)!r} have their defaults: "
                f"{', '.join(map(str, left_out))}.",
                UserWarning,
                stacklevel=users_level(),
            )
        return estimator

    @classmethod
    def _with_parameters(
        cls, folder: Path, about: dict[str, Any], params: dict[str, Any]
    ) -> "SavedTransformer":
        """An estimator that is not fitted."""
        known = cls._get_param_names()
        for name in params:
            if name.partition("__")[0] not in known:
                raise TypeError(f"{cls.__name__} has no parameter {name!r}.")
        saved = directory.values(folder, about, "parameters")
        others = {name: value for name, value in params.items() if name in known}
        try:
            odd = [name for name in saved if name not in known or name in dropping.OF_THE_MACHINE]
            if odd:
                raise ValueError(f"{odd[0]!r} is no parameter of a {cls.__name__} that is saved")
            estimator = cls(**{**others, **saved})
            estimator._validate_params()
            runtime.named_device(estimator.device)
            kernel = loading.as_backbone(estimator.backbone).attn_implementation
            if "/" in str(kernel) and not dropping.covers(params, "backbone__attn_implementation"):
                raise ValueError(
                    f"attn_implementation={kernel!r} is code of the hub, and load runs none but "
                    f"what it is told to: load(path, backbone__attn_implementation=...)"
                )
        except (TypeError, ValueError) as error:
            raise SavedModelError(f"{str(folder / info.NAME)!r} is damaged: {error}") from error
        try:
            estimator.set_params(**params)
        except AttributeError as error:
            raise ValueError(
                f"{', '.join(params)}: a parameter that is a string has no options; pass an object "
                f"that has them."
            ) from error
        estimator._validate_params()
        runtime.named_device(estimator.device)
        return estimator

    def _settle(self) -> None:
        """Have the model compute in the way that the parameter ``backbone`` asks for."""
        spec = loading.as_backbone(self.backbone)
        kernel = spec.attn_implementation
        if kernel is not None:
            try:
                self.model_.backbone.set_attn_implementation(kernel)
            except (ImportError, ValueError) as error:
                warnings.warn(
                    f"Backbone(attn_implementation={kernel!r}) cannot be had here, and the model "
                    f"computes with another kernel: {error}",
                    UserWarning,
                    stacklevel=users_level(),
                )

    def _place(self) -> None:
        """Bring a model that was read on the CPU to where ``device`` says, if that is there."""
        try:
            self.model_.to(runtime.resolve_device(self.device))
        except ValueError as error:
            warnings.warn(f"{error} The model stays on the CPU.", stacklevel=users_level())


def load(path, *, revision=None, token=None, **params):
    """Read a fitted estimator that ``save_pretrained`` or ``push_to_hub`` wrote.

    Parameters
    ----------
    path : str or path-like
        The directory; or the id of a repository on the Hugging Face hub, of which the files that a
        save writes are downloaded to the hub's cache.
    revision : str, default=None
        Branch, tag or commit of the repository; None means its main branch. That of the backbone
        is an option of `Backbone`.
    token : str or bool, default=None
        For a private repository; None means the one that ``hf auth login`` stored.
    **params
        Parameters of the estimator that are to be others than when it was saved, such as
        ``device="cpu"``; of the options of one, ``backbone__attn_implementation="eager"``.

    Returns
    -------
    estimator : object
        Of the class that was saved, and fitted as it was: its model lies where ``device`` says,
        or with a warning on the CPU if this machine has no such device.

    Raises
    ------
    SavedModelError
        If there is no such directory or repository, or it is damaged or incomplete, of a newer
        format, or none of ours.
    TypeError, ValueError
        If a parameter is none of the class or not as it describes it, or path is a directory and
        there is a revision.

    Notes
    -----
    No code comes out of the directory and nothing is unpickled, so that it may be anybody's.

    Examples
    --------
    >>> import sktransformers
    >>> clf = sktransformers.load("my-model", device="cpu")  # doctest: +SKIP
    """
    _check_path(path)
    folder = hub.find(path, revision, token, bool(params.get("verbose")))
    return steadily(folder, lambda: _read(folder, params))


def _read(folder: Path, params: dict[str, Any]) -> Any:
    about = info.read(folder)
    name = about["class"]
    if name not in _CLASSES:
        raise SavedModelError(
            f"{str(folder)!r} holds a {name!r}, which is no estimator of sktransformers: where it "
            f"is a class of your own, {name}.from_pretrained reads it."
        )
    kind = getattr(importlib.import_module("sktransformers"), name)
    return kind._from_saved(folder, about, params)


def is_saved(name: Any) -> bool:
    """Whether a name is that of a directory that ``save_pretrained`` wrote."""
    if not isinstance(name, (str, os.PathLike)):
        return False
    folder = Path(os.path.expanduser(name))
    recover(folder)
    return os.path.lexists(folder / info.NAME)  # whatever it is, `load` says more of it


def _at_revision(name: Any, revision: Any, token: Any) -> Backbone:
    """A checkpoint of the hub at a revision."""
    if not hub.is_id(name) or Path(name).is_dir():
        raise ValueError(
            f"revision and token are for the id of a repository on the hub, but name is {name!r}; "
            f"a Backbone has options of its own for both."
        )
    return Backbone(name, revision=revision, token=token)


def _check_path(path: Any) -> None:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path={path!r} must be a str or a path-like object.")


def _is_saved(kind: type, name: str) -> bool:
    """Whether an attribute is one of those that are saved as JSON."""
    is_fitted = name.endswith("_") and not name.startswith("_") and name not in _APART
    return name in _PRIVATE or (is_fitted and not hasattr(kind, name))


def _is_numbers(value: Any) -> bool:
    """Whether a value is a number, or consists of numbers."""
    if isinstance(value, dict):  # as of BatchHistory
        named = all(isinstance(name, str) and name.isidentifier() for name in value)
        return named and _is_numbers([*value.values()])
    if isinstance(value, (list, tuple)):
        return all(map(_is_numbers, value))
    plain = value is None or type(value) in (bool, int, float)
    return plain or isinstance(value, (np.bool_, np.integer, np.floating))


def _check_code(model: Any) -> None:
    for module in model.modules():
        origin = type(module).__module__
        if origin.partition(".")[0] not in _KNOWN_CODE:
            raise ValueError(
                f"The backbone runs code that is not of the transformers library "
                f"({origin}.{type(module).__name__}): a saved model holds no code, and load runs "
                f"none but that of libraries."
            )
