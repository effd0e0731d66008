"""Which weights a directory holds: all of them, or what goes with a pretrained backbone.

Of a model whose backbone everybody can load again it is enough to write what differs from it,
tensor by tensor, or after LoRA the adapters. The pretrained tensors that are left out go into a
digest: whoever loads the directory has the very same ones, or gets an error.
"""

import copy
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sktransformers.modules.language import LanguageModel
from sktransformers.modules.masked import AdaptedModel
from sktransformers.modules.native import NativeModel, labels_of
from sktransformers.persistence import checks, info, models
from sktransformers.persistence.errors import SavedModelError
from sktransformers.specs import DEFAULT_BACKBONE, Backbone, LoRA
from sktransformers.training import loading, store
from sktransformers.training.adaptation import load_adaptable
from sktransformers.training.moments import Moments
from sktransformers.training.strategies import add_adapters, lora_layers

FULL, DELTA, ADAPTER = "full", "delta", "adapter"  # kinds
# Not model.safetensors: who takes that for all of a model gets random numbers for the rest.
DELTA_FILE = "delta.safetensors"
ADAPTER_FILE = "adapter_model.safetensors"  # as PEFT calls it
ADAPTER_CONFIG = "adapter_config.json"
OPTIMIZER_FILE = "optimizer.safetensors"
_PEFT_PREFIX = "base_model.model."
# Of the largest number: what adding and subtracting the product of adapters leaves of rounding. In
# half precision that would be as much as training changes: there it must be the very same.
_ROUNDING = 64 * torch.finfo(torch.float32).eps


class _Base(NamedTuple):
    """The pretrained backbone that goes with a directory.

    Parameters
    ----------
    spec : Backbone
    whole : PreTrainedModel
        The backbone, or the family's model with its head.
    prefix : str
        Name that it has in our model, with a dot.
    """

    spec: Backbone
    whole: Any
    prefix: str

    def tensors(self) -> dict[str, Tensor]:
        """What it brings, by the names in our model."""
        found = self.whole.state_dict()
        return {self.prefix + name: tensor.detach().cpu() for name, tensor in found.items()}


class _Parts(NamedTuple):
    """A model beside the pretrained backbone.

    Parameters
    ----------
    spec : Backbone
    before : dict of str to Tensor
        What the backbone brings, by the names in our model.
    now : dict of str to Tensor
        All tensors of the model, adapters merged.
    layers : dict of str to Module
        Layers that are the backbone's with an adapter, by their names in what is adapted.
    prefix : str
        Name of that in our model, with a dot.
    """

    spec: Backbone
    before: dict[str, Tensor]
    now: dict[str, Tensor]
    layers: dict[str, Any]
    prefix: str


def write(saved: Any, folder: Path, how: Any) -> dict[str, Any]:
    """Write the weights, the configuration of the model, and the state of the optimizer.

    Parameters
    ----------
    saved : Saved
    folder : Path
    how : How
        ``weights`` and ``format`` are read.

    Returns
    -------
    about : dict
        Entries ``"model"`` and ``"weights"`` of ``sktransformers.json``.

    Raises
    ------
    ValueError
        If weights that go with a backbone are asked for, and there is none that could be loaded
        again; or together with a format that has them all.
    """
    about = _write_weights(saved, folder, how)
    about["weights"]["optimizer"] = saved.moments is not None
    if saved.moments is not None:
        store.write(folder / OPTIMIZER_FILE, *saved.moments.as_tensors())
    return about


def _write_weights(saved: Any, folder: Path, how: Any) -> dict[str, Any]:
    model = saved.model
    if how.weights == DELTA and how.format == "transformers":
        raise ValueError(
            'weights="delta" and format="transformers" contradict each other: the transformers '
            'library reads all weights or none. Take weights="full", or another format.'
        )
    parts = None
    if how.weights == DELTA:
        try:
            parts = _parts(saved)
        except (ImportError, ValueError) as error:
            raise ValueError(f'weights="delta" cannot be written. {error}') from error
    elif how.weights == "auto" and how.format != "transformers" and lora_layers(model.backbone):
        try:
            parts = _parts(saved)
        except (ImportError, ValueError) as error:
            _say(saved, f"All weights are saved, not the adapters alone. {error}")
    if parts is not None and (parts.layers or how.weights == DELTA):
        return _write_parts(model, parts, folder)
    return {
        "model": models.write_model(model, folder, how.format, models.Reading.of(saved)),
        "weights": {"kind": FULL},
    }


def read(folder: Path, about: dict[str, Any], backbone: Any) -> Any:
    """The model that `write` wrote, on the CPU and in evaluation mode.

    Parameters
    ----------
    folder : Path
    about : dict
        The entries of ``sktransformers.json``.
    backbone : str, path, Backbone or PreTrainedModel
        The estimator's parameter: where the pretrained backbone lies.

    Raises
    ------
    SavedModelError
        If files are missing or damaged, or the backbone is not there or not the same.
    """
    weights = about["weights"]
    kind = weights.get("kind")
    if kind == FULL:
        return _narrowed(models.read_model(folder, about["model"]), backbone)
    if kind not in (DELTA, ADAPTER):
        raise SavedModelError(f"{str(folder)!r} has weights of a kind {kind!r} that is not known.")
    known, tied = weights.get("backbone"), weights.get("tied")
    if not isinstance(known, dict) or not isinstance(tied, list):
        raise SavedModelError(f"{str(folder / info.NAME)!r} is damaged: {weights!r}.")
    cls, config = models.read_config(folder)
    spec = _found_again(backbone, known)
    name = loading.label(spec)
    try:
        base = _base(cls, labels_of(config), spec)
    except (ValueError, TypeError, ImportError) as error:
        raise SavedModelError(
            f"{str(folder)!r} holds what differs from the backbone {name}, which cannot be loaded: "
            f"{error} Where it lies elsewhere, say so: load(path, backbone=...)."
        ) from error
    rest = _file(folder / DELTA_FILE)[0]
    before = base.tensors()
    tied = set(map(str, tied))
    same = set(before) - set(rest) - tied
    if _digest(before, same) != weights.get("digest"):
        raise SavedModelError(
            f"{str(folder)!r} holds what differs from a backbone that is not the one in {name}: "
            f"its weights are others. It was saved with {known}; "
            f"load(path, backbone=...) says where that is."
        )
    config.backbone_config = base.whole.config
    path = folder / models.CONFIG_FILE
    checks.check_size(lambda: cls(copy.deepcopy(config)), {**before, **rest}, path)
    model = cls(config, base.whole)
    lacking = set(model.state_dict()) - set(before) - set(rest) - tied
    try:
        unknown = model.load_state_dict(rest, strict=False).unexpected_keys
    except RuntimeError as error:  # another shape
        raise SavedModelError(f"{str(folder / DELTA_FILE)!r} does not fit: {error}") from error
    if lacking or unknown:
        raise SavedModelError(
            f"{str(folder / DELTA_FILE)!r} does not fit the model: it lacks {sorted(lacking)[:5]}, "
            f"and has {unknown[:5]} too many."
        )
    _narrowed(model.eval(), backbone)  # in front of adapters, as in fit
    if kind == ADAPTER:
        _read_adapters(model, folder)
    return model.eval()


def _narrowed(model: Any, backbone: Any) -> Any:
    """A model that computes its last block only where it is read, if the backbone says so."""
    if loading.as_backbone(backbone).skip_unread and hasattr(model, "narrow"):
        model.narrow()
    return model


def read_moments(folder: Path, about: dict[str, Any]) -> Moments | None:
    """State of the optimizer, or None if there was none."""
    has_state = about["weights"].get("optimizer", False)
    if not isinstance(has_state, bool):
        raise SavedModelError(
            f"{str(folder / info.NAME)!r} is damaged: optimizer is {has_state!r}."
        )
    if not has_state:
        return None
    path = folder / OPTIMIZER_FILE
    try:
        return Moments.of_tensors(*_file(path))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SavedModelError(f"{str(path)!r} is damaged: {error!r}") from error


def _base(kind: Any, labels: list[str], spec: Backbone) -> _Base:
    """The pretrained backbone of a model, loaded as ``fit`` does it."""
    # What files lack of a head is drawn: whoever saves or loads has other numbers to draw.
    with torch.random.fork_rng(devices=[]):
        if issubclass(kind, AdaptedModel):
            return _Base(spec, load_adaptable(spec, verbose=False).loaded.native, "native.")
        if issubclass(kind, LanguageModel):
            return _Base(spec, loading.load_language(spec, verbose=False).native, "native.")
        if issubclass(kind, NativeModel):
            loaded = loading.load_native(spec, kind.auto, labels, verbose=False)
            return _Base(spec, loaded.native, "native.")
        return _Base(spec, loading.load(spec, verbose=False).backbone, "backbone.")


def _again(saved: Any) -> Backbone:
    """The backbone of an estimator, if others can load it again."""
    backbone = saved.parameters.get("backbone")
    if backbone is None or "backbone__name" in saved.dropped:
        raise ValueError("The parameter backbone is left out (drop).")
    spec = loading.as_backbone(backbone)
    if isinstance(spec.name, PreTrainedModel):
        raise ValueError(
            f"backbone is {loading.label(spec)}, which has no name that it could be found by."
        )
    if not spec.pretrained:
        raise ValueError(
            f"{spec!r} has random weights (pretrained=False), which nobody could load again."
        )
    return spec


def _found_again(backbone: Any, known: dict[str, Any]) -> Backbone:
    """The backbone at the commit that was written down, where a branch has moved on since."""
    spec = copy.copy(loading.as_backbone(backbone))
    spec.attn_implementation = None  # this machine may not have it, which is seen to later
    revision = known.get("revision")
    has_moved = isinstance(spec.name, PreTrainedModel) or os.fspath(spec.name) != known.get("name")
    is_packaged = spec.name == DEFAULT_BACKBONE and loading.offline_directory() is not None
    is_commit = re.fullmatch("[0-9a-f]{40}", spec.revision or "")
    if not (is_commit or has_moved or is_packaged) and isinstance(revision, str):
        spec.revision = revision
    return spec


def _revision(spec: Backbone) -> str | None:
    """The commit of a backbone of the hub."""
    source = loading.locate(spec.name, spec)
    if Path(source.name).is_dir():
        return None
    if not source.local_only:
        return source.state
    cached = huggingface_hub.try_to_load_from_cache(
        source.name, "config.json", revision=spec.revision
    )
    return Path(cached).parent.name if isinstance(cached, str) else spec.revision


def _plain_state(model: Any) -> dict[str, Tensor]:
    """Tensors of a model, those with an adapter merged and under their plain names."""
    return {
        name.replace(".base_layer.", "."): tensor.detach().cpu()
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name
    }


def _parts(saved: Any) -> _Parts:
    """Compare a model with its pretrained backbone, or raise an error that says why not."""
    model = saved.model
    base = _base(type(model), labels_of(model.config), _again(saved))
    before, now = base.tensors(), _plain_state(model)
    name = loading.label(base.spec)
    others = [n for n, x in before.items() if n not in now or now[n].dtype != x.dtype]
    if others:
        raise ValueError(
            f"The model was not built from {name}, which has {others[0]!r} and {len(others) - 1} "
            f"other tensors that are not in it."
        )
    adapted = model.backbone
    prefix = next(f"{name}." for name, part in model.named_modules() if part is adapted)
    layers = lora_layers(adapted)
    if not all(_is_sum(layer, f"{prefix}{n}.weight", before, now) for n, layer in layers.items()):
        _say(saved, f"The adapters do not stand on the weights of {name}: they are saved merged.")
        layers = {}
    return _Parts(base.spec, before, now, layers, prefix)


def _is_sum(layer: Any, name: str, before: dict[str, Tensor], now: dict[str, Tensor]) -> bool:
    """Whether the weight of a layer is that of the backbone and its adapter."""
    if name not in before or before[name].shape != now[name].shape:
        return False
    merged = before[name] + layer.get_delta_weight("default").detach().cpu()
    is_coarse = torch.finfo(merged.dtype).eps > _ROUNDING
    tolerance = 0.0 if is_coarse else _ROUNDING * merged.abs().max()
    return bool(((merged - now[name]).abs() <= tolerance).all())


def _write_parts(model: Any, parts: _Parts, folder: Path) -> dict[str, Any]:
    """Write what differs from the backbone, adapters by themselves, and the configuration."""
    before = parts.before
    adapted = {f"{parts.prefix}{name}.weight" for name in parts.layers}
    rest: dict[str, Tensor] = {}
    places: dict[Any, str] = {}
    tied = []
    for name, tensor in parts.now.items():
        if name in adapted or (name in before and _are_same(tensor, before[name])):
            continue
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and places.setdefault(place, name) != name:
            tied.append(name)
        else:
            rest[name] = tensor
    store.write(folder / DELTA_FILE, rest, {})
    backbone = {"name": os.fspath(parts.spec.name), "revision": _revision(parts.spec)}
    if parts.layers:
        _write_adapters(parts.layers, backbone, folder)
    about = {
        "kind": ADAPTER if parts.layers else DELTA,
        "backbone": backbone,
        "digest": _digest(before, set(before) - set(rest) - set(tied)),
        "tied": tied,
    }
    return {"model": models.write_config(model, folder), "weights": about}


def _are_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same, bit by bit."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    bits = [x.contiguous().reshape(-1).view(torch.uint8) for x in (one, other)]
    return torch.equal(*bits)


def _digest(tensors: dict[str, Tensor], names: set[str]) -> str:
    ordered = sorted(names)
    digest = hashlib.blake2b(digest_size=16)
    for name, found in zip(ordered, store.digests([tensors[name] for name in ordered])):
        digest.update(name.encode() + found)
    return digest.hexdigest()


def _write_adapters(layers: dict[str, Any], backbone: dict[str, Any], folder: Path) -> None:
    """Write adapters as PEFT does."""
    import peft

    tensors = {}
    for name, layer in layers.items():
        for part in ("lora_A", "lora_B"):
            tensors[f"{_PEFT_PREFIX}{name}.{part}.weight"] = getattr(layer, part)["default"].weight
    store.write(folder / ADAPTER_FILE, tensors, {})
    layer = next(iter(layers.values()))
    spec = _spec_of(layer)
    peft.LoraConfig(
        base_model_name_or_path=backbone["name"],
        revision=backbone["revision"],
        r=spec.r,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=sorted(layers),
        fan_in_fan_out=layer.fan_in_fan_out,
        inference_mode=True,
    ).save_pretrained(str(folder))
    path = folder / ADAPTER_CONFIG
    written = checks.read_json(path)
    written["target_modules"].sort()  # of a set, which has no order
    path.write_text(json.dumps(written, indent=2) + "\n", "utf-8")


def _spec_of(layer: Any) -> LoRA:
    """The option object that a layer's adapter came from."""
    dropout = getattr(layer.lora_dropout["default"], "p", 0.0)
    return LoRA(r=layer.r["default"], alpha=layer.lora_alpha["default"], dropout=dropout)


def _read_adapters(model: Any, folder: Path) -> None:
    """Put adapters into a model, and merge them."""
    path = folder / ADAPTER_FILE
    tensors = _file(path)[0]
    about = checks.read_json(folder / ADAPTER_CONFIG)
    try:
        spec = LoRA(
            r=int(about["r"]), alpha=about["lora_alpha"], dropout=float(about["lora_dropout"])
        )
        spec._validate_params()
        targets = [str(name) for name in about["target_modules"]]
        for name in targets:
            if tensors[f"{_PEFT_PREFIX}{name}.lora_A.weight"].shape[0] != spec.r:
                raise ValueError(f"r={spec.r} is not that of {name}")
        with torch.random.fork_rng(devices=[]):
            add_adapters(model.backbone, spec, targets)
        layers = lora_layers(model.backbone)
        for name, layer in layers.items():
            for part in ("lora_A", "lora_B"):
                weight = getattr(layer, part)["default"].weight
                tensor = tensors.pop(f"{_PEFT_PREFIX}{name}.{part}.weight")
                if tensor.shape != weight.shape:
                    raise ValueError(f"{part} of {name} has the shape {tuple(tensor.shape)}")
                weight.data.copy_(tensor)
            layer.merge()
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise SavedModelError(f"{str(path)!r} does not fit the model: {error!r}") from error
    if tensors or set(layers) != set(targets):
        raise SavedModelError(
            f"{str(path)!r} does not fit the model: {sorted(tensors)[:5]} have no place."
        )


def _file(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Tensors of a file, and what it says about them."""
    try:
        return store.load(path.resolve())
    except (OSError, ValueError) as error:
        raise SavedModelError(f"{str(path)!r} cannot be read: {error}") from error


def _say(saved: Any, text: str) -> None:
    if saved.parameters.get("verbose"):
        print(text)
