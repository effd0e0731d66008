"""Hub, directory or loaded model -> language model with its own head, or a new one."""

from pathlib import Path, PurePath
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from sktransformers.modules.attention import looks_ahead
from sktransformers.modules.encoders import is_decoder
from sktransformers.modules.narrowing import widen
from sktransformers.modules.native import labels_of
from sktransformers.specs import Backbone
from sktransformers.training import loading

# Modules of a sentence-transformers checkpoint that have no weights beside the backbone's.
_KEPT_MODULES = ("Transformer", "Pooling", "Normalize")


class Adaptable(NamedTuple):
    """A language model of the caller's own.

    Parameters
    ----------
    loaded : Loaded
        With ``native``, the model with its head.
    is_causal : bool
        Whether it predicts a token from those before it.
    has_new_head : bool
        Whether the files have not the whole head.
    files : dict of str to object
        What else a directory of the backbone says of its pooling: JSON by the names of the files.
    """

    loaded: loading.Loaded
    is_causal: bool
    has_new_head: bool
    files: dict[str, Any]


def load_adaptable(spec: Backbone, *, verbose: bool) -> Adaptable:
    """Load a backbone with the head that predicts tokens.

    What the files lack of the head is new, and its last layer tied to the input embedding.

    Parameters
    ----------
    spec : Backbone
        As `sktransformers.training.loading.as_backbone` returns it.
    verbose : bool
        Whether download bars may show.

    Raises
    ------
    ValueError
        As `sktransformers.training.loading.load`; or if the model is an encoder-decoder, its
        family knows no such head, or it is a decoder that sees what it is to predict.
    """
    loading.check_plain(spec, "models that MaskedLMAdapter adapts")
    with loading.alone(verbose):
        source: Any = loading._source(spec)
        given: Any = spec.name
        is_loaded = isinstance(given, PreTrainedModel)
        config = given.config if is_loaded else loading._read_config(source)
        if config.is_encoder_decoder:
            raise ValueError(
                f"{loading.label(spec)} is an encoder-decoder model (family "
                f"{config.model_type!r}); MaskedLMAdapter adapts encoders with masks and decoders "
                f"from left to right. Text2TextGenerator fine-tunes encoder-decoders."
            )
        is_causal = is_decoder(config)
        auto: Any = AutoModelForCausalLM if is_causal else AutoModelForMaskedLM
        if is_loaded:
            native = loading._head_on(spec, auto, labels_of(config))
            widen(native.base_model)  # it may come from an estimator that narrowed it
            whole = auto._model_mapping[type(config)]
            fresh = [] if isinstance(given, whole) or not spec.pretrained else _behind(native)
        else:
            native, fresh = loading._load_model(source, spec, auto)
            fresh = [name for name in fresh if name in _behind(native)]
        _tie(native, fresh, spec.pretrained)
        # Where it came from: its tokenizer and its pooling are found there.
        origin = given.base_model if is_loaded else native
        native.base_model.name_or_path = native.name_or_path = origin.name_or_path
        if is_causal and looks_ahead(native.base_model):
            raise ValueError(
                f"{loading.label(spec)} is of a family of decoders, but the vectors of its tokens "
                f"depend on those behind them, so that it cannot learn to predict these."
            )
        loaded = loading._complete(native.base_model, native, source, spec)
        return Adaptable(loaded, is_causal, bool(fresh), _sentence_files(source))


def sentence_files(folder: Path) -> dict[str, Any]:
    """``files`` of `Adaptable`, of a directory.

    Raises
    ------
    ValueError
        If one of them is damaged.
    """
    return _sentence_files(loading.locate(folder, Backbone()))


def _behind(native: Any) -> list[str]:
    """Names of the parameters behind the backbone."""
    inside = set(native.base_model.parameters())
    return [name for name, p in native.named_parameters() if p not in inside]


def _tie(native: Any, fresh: list[str], is_pretrained: bool) -> None:
    """Tie the last layer to the input embedding where it is, or else would be random."""
    out, table = native.get_output_embeddings(), native.get_input_embeddings()
    names = {name for name, p in native.named_parameters() if out is not None and p is out.weight}
    if names & set(fresh) and out.weight.shape == table.weight.shape:
        native.config.tie_word_embeddings = True
    elif is_pretrained and out is not None and not torch.equal(out.weight, table.weight):
        return  # the files have one of their own, whatever the configuration says
    native.tie_weights()


def _sentence_files(source: Any) -> dict[str, Any]:
    """What a sentence-transformers checkpoint says of its pooling, by the names of the files."""
    modules = None if source is None else loading._read_json(source, "modules.json")
    if not isinstance(modules, list):
        return {}
    kept = [m for m in modules if str(m.get("type", "")).rpartition(".")[2] in _KEPT_MODULES]
    folders = {str(module.get("path", "")) for module in kept} - {"", ".."}
    names = ["sentence_bert_config.json", "config_sentence_transformers.json"]
    # Folders beside config.json, and nowhere else.
    names += [f"{folder}/config.json" for folder in folders if PurePath(folder).name == folder]
    files = {name: loading._read_json(source, name) for name in names}
    files = {name: content for name, content in files.items() if content is not None}
    return {"modules.json": kept, **files}
