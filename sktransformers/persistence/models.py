"""Our models as files of the transformers library, and back."""

import copy
import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from sktransformers.modules.language import LanguageModel, auto_class
from sktransformers.modules.masked import AdaptedModel
from sktransformers.modules.model import PairModel, SequenceModel, TaggingModel
from sktransformers.modules.multitask import MultiTaskModel
from sktransformers.modules.native import NativeSequenceModel, NativeTaggingModel
from sktransformers.persistence.errors import SavedModelError
from sktransformers.training.loading import quiet
from sktransformers.training.strategies import fold_adapters, lora_layers

# How weights are laid out: by our own classes, or by those of the transformers library.
OURS, THEIRS = "sktransformers", "transformers"

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


def write_model(model: Any, folder: Path) -> dict[str, Any]:
    """Write ``config.json`` and ``model.safetensors``.

    Returns
    -------
    about : dict
        What ``sktransformers.json`` says of the model.
    """
    if lora_layers(model):
        model = copy.deepcopy(model)
        fold_adapters(model)
    native = getattr(model, "native", None)
    with quiet(verbose=False):
        (model if native is None else native).save_pretrained(folder)
    if native is None:
        return {"layout": OURS}
    config = model.config.to_diff_dict()
    config.pop("backbone_config")
    return {"layout": THEIRS, "config": config}


def read_model(folder: Path, about: dict[str, Any], options: dict[str, Any]) -> Any:
    """The model that `write_model` wrote, on the CPU and in evaluation mode.

    Parameters
    ----------
    folder : Path
    about : dict
        What `write_model` returned.
    options : dict
        Keywords for ``from_pretrained``.

    Raises
    ------
    SavedModelError
        If files are missing or damaged, or do not belong together.
    """
    is_ours = about.get("layout") == OURS
    config = _entry(folder, "config.json") if is_ours else about.get("config")
    kind = MODELS.get(config.get("model_type")) if isinstance(config, dict) else None
    if kind is None:
        raise SavedModelError(f"{str(folder)!r} holds no model that this version knows.")
    if is_ours:
        return _read(kind, folder, options).eval()
    native_config = AutoConfig.from_pretrained(folder, local_files_only=True)
    auto = getattr(kind, "auto", None) or auto_class(native_config)
    native = _read(auto, folder, options)
    config = {name: value for name, value in config.items() if name != "model_type"}
    return kind(kind.config_class(backbone_config=native.config, **config), native).eval()


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a directory."""
    try:
        with quiet(verbose=False):
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # of the format's readers
        raise SavedModelError(f"The tokenizer in {str(folder)!r} is damaged: {error}") from error


def _read(kind: Any, folder: Path, options: dict[str, Any]) -> Any:
    try:
        with quiet(verbose=False):
            model, info = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                dtype="auto",
                **options,
            )
    except Exception as error:  # of the format's readers
        raise SavedModelError(f"The model in {str(folder)!r} is damaged: {error}") from error
    lacking = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    if lacking:
        shown = ", ".join(sorted(lacking)[:5])
        raise SavedModelError(
            f"The weights in {str(folder)!r} lack {len(lacking)} tensors of the model, or have "
            f"them in another shape: {shown}{', ...' if len(lacking) > 5 else ''}."
        )
    return model


def _entry(folder: Path, name: str) -> Any:
    try:
        return json.loads((folder / name).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SavedModelError(f"{str(folder / name)!r} cannot be read: {error}") from error
