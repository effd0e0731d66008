"""Our models as files of the transformers library, and back."""

import copy
from pathlib import Path
from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from sktransformers.inputs.word_encoding import needs_spaces
from sktransformers.modules.backbone import uses_token_types
from sktransformers.modules.language import LanguageModel, auto_class
from sktransformers.modules.masked import AdaptedModel
from sktransformers.modules.model import PairModel, SequenceModel, TaggingModel
from sktransformers.modules.multitask import MultiTaskModel
from sktransformers.modules.native import NativeSequenceModel, NativeTaggingModel, last_layer
from sktransformers.persistence import checks
from sktransformers.persistence.errors import SavedModelError
from sktransformers.persistence.native import (
    NotExpressible,
    Reading,
    as_native,
    as_ours,
    auto_of,
    check_expressible,
    in_unit,
)
from sktransformers.training import store
from sktransformers.training.loading import alone
from sktransformers.training.strategies import fold_adapters, lora_layers

# How weights are laid out: by our own classes, or by those of the transformers library.
OURS, THEIRS = "sktransformers", "transformers"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
# The last layer of a regressor as it was trained, beside one that gives numbers in the unit of y.
LAST_LAYER_FILE = "last_layer.safetensors"

MODELS: dict[str, Any] = {
    model.config_class.model_type: model
    for model in (
        SequenceModel,
        PairModel,
        TaggingModel,
        MultiTaskModel,
        NativeSequenceModel,
        NativeTaggingModel,
        LanguageModel,
        AdaptedModel,
    )
}
_GENERATES = (LanguageModel, AdaptedModel)  # what pipelines may give more than is read at once


def write_model(model: Any, folder: Path, layout: str, reading: Reading) -> dict[str, Any]:
    """Write ``config.json`` and ``model.safetensors``.

    Parameters
    ----------
    model : PreTrainedModel
        One of ours, in evaluation mode.
    folder : Path
    layout : {"auto", "transformers", "sktransformers"}
        The parameter ``format`` of ``save_pretrained``.
    reading : Reading

    Returns
    -------
    about : dict
        What ``sktransformers.json`` says of the model.

    Raises
    ------
    NotExpressible
        If the layout is to be that of the transformers library, which has no class for it.
    """
    model = merged(model)
    with alone(verbose=False):
        if layout != OURS:
            try:
                return _write_theirs(model, folder, reading)
            except NotExpressible:
                if layout == THEIRS:
                    raise
        _save(model, folder)
    return {"layout": OURS}


def _save(model: Any, folder: Path, **options: Any) -> None:
    """Write a model of the transformers library, which would write into its configuration too."""
    config = model.config
    before = {name: getattr(config, name, None) for name in ("architectures", "dtype")}
    try:
        model.save_pretrained(folder, **options)
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def merged(model: Any) -> Any:
    """A copy of a model with its adapters merged, or itself if it has none."""
    if lora_layers(model):
        model = copy.deepcopy(model)
        fold_adapters(model)
    return model


def _write_theirs(model: Any, folder: Path, reading: Reading) -> dict[str, Any]:
    check_expressible(model, reading)
    config = model.config.to_diff_dict()
    native = getattr(model, "native", None)
    if native is None:
        native = as_native(model, reading)
    else:  # its configuration is that of the files
        config.pop("backbone_config")
    about = {
        "layout": THEIRS,
        "config": config,
        "architectures": native.config.architectures,  # of the files it came from
        "in_unit": reading.has_unit,
    }
    if not reading.has_unit:
        _save(native, folder)
        return about
    _save(native, folder, state_dict=in_unit(native, reading.unit))
    layer = native.get_submodule(last_layer(native))
    store.write(folder / LAST_LAYER_FILE, layer.state_dict(), {})
    return about


def write_config(model: Any, folder: Path) -> dict[str, Any]:
    """Write the ``config.json`` of our own layout, and no weights; returns as `write_model`."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = model.dtype
    config.save_pretrained(folder)
    return {"layout": OURS}


def write_tokenizer(model: Any, reading: Reading, folder: Path) -> None:
    """Write the tokenizer, so that pipelines read texts as the estimator does.

    What is read back differs from the one that was given in ``model_max_length``,
    ``model_input_names`` and the space before a tagger's first word: estimators give the same
    tokens with both.
    """
    tokenizer = reading.tokenizer
    if reading.max_length is not None and not isinstance(model, _GENERATES):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.model_max_length = reading.max_length
        names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
        # A family that knows none may take them for words.
        if uses_token_types(model.backbone):
            given = reading.pairs or len(names) < len(tokenizer.model_input_names)
            names += ["token_type_ids"] if given else []
        tokenizer.model_input_names = names
        tokenizer.init_kwargs["model_input_names"] = names
        if isinstance(model, (TaggingModel, NativeTaggingModel)) and needs_spaces(tokenizer):
            tokenizer = _with_space_first(tokenizer)
    tokenizer.save_pretrained(folder)


def _with_space_first(tokenizer: Any) -> Any:
    """A tokenizer that reads the first word of a text as the others, with a space before it."""
    backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
    if backend is None or isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        tokenizer.init_kwargs["add_prefix_space"] = tokenizer.add_prefix_space = True
        if backend is not None:
            backend.pre_tokenizer.add_prefix_space = True
        return tokenizer
    # Behind another step, as in Qwen, that would put a space before each part; and the families'
    # own classes make the steps before it anew.
    earlier = [] if backend.normalizer is None else [backend.normalizer]
    one_space = normalizers.Replace(Regex("^ "), ""), normalizers.Prepend(" ")
    backend.normalizer = normalizers.Sequence([*earlier, *one_space])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        padding_side=tokenizer.padding_side,
        **tokenizer.special_tokens_map,
    )


def read_model(folder: Path, about: dict[str, Any]) -> Any:
    """The model that `write_model` wrote, on the CPU and in evaluation mode.

    Parameters
    ----------
    folder : Path
    about : dict
        What `write_model` returned.

    Raises
    ------
    SavedModelError
        If files are missing or damaged, or do not belong together.
    """
    checks.check_beside(folder)
    tensors = checks.read_headers(folder)
    whole = checks.read_config(folder / CONFIG_FILE, tensors)
    if about.get("layout") == OURS:
        return _read(_kind(folder / CONFIG_FILE, whole), folder, tensors).eval()
    path = folder / "sktransformers.json"
    config: Any = about.get("config")
    checks.check_config(config, path, tensors)
    kind = _kind(path, config)
    native = _read(_auto(kind, config, folder), folder, tensors)
    config = {name: value for name, value in config.items() if name != "model_type"}
    is_around = auto_of(kind) is None
    if not is_around:
        checks.check_size(lambda: kind(kind.config_class(**config)), tensors, path)
    try:
        if is_around:
            native.config.architectures = about.get("architectures")
            config = kind.config_class(backbone_config=native.config, **config)
            model = kind(config, native)
        else:
            model = as_ours(kind, kind.config_class(**config), native)
    except Exception as error:  # of any entry that is of another type
        raise SavedModelError(f"{str(path)!r} describes no model: {error}") from error
    if about.get("in_unit"):
        _read_last_layer(model, folder)
    return model.eval()


def read_config(folder: Path) -> tuple[Any, Any]:
    """Class and configuration of what `write_config` wrote."""
    path = folder / CONFIG_FILE
    kind = _kind(path, checks.read_config(path))
    try:
        return kind, kind.config_class.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # of the format's reader
        raise SavedModelError(f"{str(path)!r} is damaged: {error}") from error


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a directory."""
    checks.check_tokenizer(folder)
    try:
        with alone(verbose=False):
            return AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # of the format's readers
        paths = [folder / name for name in ("tokenizer.json", "tokenizer_config.json")]
        path = next((path for path in paths if path.exists()), folder)
        raise SavedModelError(
            f"{str(path)!r}, or what stands beside it, makes no tokenizer: {error}"
        ) from error


def _kind(path: Path, config: dict[str, Any]) -> Any:
    """The class of ours that a configuration is for."""
    kind = MODELS.get(str(config.get("model_type")))
    if kind is None:
        raise SavedModelError(f"{str(path)!r} is of no model that this version knows.")
    return kind


def _auto(kind: Any, config: dict[str, Any], folder: Path) -> Any:
    """The class of the transformers library that reads the family's model of one of ours."""
    if kind is AdaptedModel:
        return AutoModelForCausalLM if config.get("is_causal") else AutoModelForMaskedLM
    if kind is not LanguageModel:
        return getattr(kind, "auto", None) or auto_of(kind)
    try:
        return auto_class(_config(folder))
    except Exception as error:  # of the format's readers
        raise SavedModelError(f"{str(folder / CONFIG_FILE)!r} is damaged: {error}") from error


def _config(folder: Path) -> Any:
    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _read(kind: Any, folder: Path, tensors: dict[str, Any]) -> Any:
    """What a class of ours, or of the transformers library, reads."""
    from_config = getattr(kind, "from_config", None)

    def build() -> Any:
        if from_config is not None:
            return from_config(_config(folder), trust_remote_code=False)
        return kind(kind.config_class.from_pretrained(folder, local_files_only=True))

    checks.check_size(build, tensors, folder / CONFIG_FILE)
    path = folder / WEIGHTS_FILE
    try:
        with alone(verbose=False):
            model, info = kind.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                dtype="auto",
            )
    except Exception as error:  # of the format's readers
        raise SavedModelError(f"{str(path)!r} is damaged: {error}") from error
    lacking = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    if lacking:
        shown = ", ".join(sorted(lacking)[:5])
        raise SavedModelError(
            f"{str(path)!r} lacks {len(lacking)} tensors of the model, or has them in another "
            f"shape: {shown}{', ...' if len(lacking) > 5 else ''}."
        )
    return model


def _read_last_layer(model: Any, folder: Path) -> None:
    path = folder / LAST_LAYER_FILE
    try:
        model.head.out.load_state_dict(store.load(path.resolve())[0])
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise SavedModelError(f"{str(path)!r} cannot be read: {error}") from error
