"""What is trained: everything, the head, the top blocks, adapters, biases."""

import math
import warnings
from typing import Any

from skorch.callbacks import Callback
from torch import nn

from sktransformers.modules.backbone import Parts, below_pooler, hidden_size, parts
from sktransformers.specs import BitFit, GradualUnfreezing, LoRA

# New or few parameters take, and need, larger steps than all of the pretrained weights: this many
# times their rate. Of 2.5, 5 and 10 (LoRA) and of 5, 10 and 20 (BitFit) the best at 600 rows of
# trec6 and clinc150.
_LORA_FACTOR = 5.0
_BITFIT_FACTOR = 10.0


class Strategy:
    """Everything is trained.

    Between `prepare` and `finish` only what is trained needs gradients; before and after that
    the flags of all parameters are as the backbone's own class set them.
    """

    lr_factor = 1.0

    def prepare(self, model: Any) -> None:
        """Add adapters, and freeze what is not trained.

        Raises
        ------
        ValueError
            If the backbone does not have what the strategy asks for.
        """
        fold_adapters(model.backbone)  # those of an earlier fit
        self._begin(model)

    def _begin(self, model: Any) -> None:
        self._model = model
        self._frozen: dict[str, nn.Parameter] = {}

    def begin_epoch(self, epoch: int) -> None:
        """Change what is trained, before epoch 0, 1, ..."""

    def n_frozen(self, epoch: int) -> float:
        """Blocks that are frozen in an epoch, with all below them; inf for all of the backbone."""
        return 0

    def set_modes(self) -> None:
        """Let what is frozen compute as in prediction, of a model in training mode."""
        trained = self._in_training_mode()
        if trained is not None:
            self._model.backbone.eval()
            for module in trained:
                module.train()

    def _in_training_mode(self) -> list[nn.Module] | None:
        """Parts of the backbone that stay in training mode; None means all of it."""
        return None

    def finish(self) -> set[str]:
        """Undo what training alone needed; return the names of what was trained."""
        names = {
            name
            for name, parameter in self._model.named_parameters()
            if parameter.requires_grad and name not in self._frozen
        }
        for parameter in self._frozen.values():
            parameter.requires_grad = True
        self._frozen = {}
        return names

    def _freeze(self, kept: set[nn.Parameter]) -> None:
        """Leave the gradients of some of the backbone's parameters, stop those of the others."""
        ours = below_pooler(self._model.backbone)
        for name, parameter in self._model.named_parameters():
            if parameter in ours and parameter not in kept and parameter.requires_grad:
                parameter.requires_grad = False
                self._frozen[name] = parameter

    def _thaw(self, parameters: set[nn.Parameter]) -> None:
        for name, parameter in list(self._frozen.items()):
            if parameter in parameters:
                parameter.requires_grad = True
                del self._frozen[name]


class HeadOnly(Strategy):
    """Pooling and head are trained."""

    def prepare(self, model: Any) -> None:
        super().prepare(model)
        self._freeze(set())

    def n_frozen(self, epoch: int) -> float:
        return math.inf

    def _in_training_mode(self) -> list[nn.Module] | None:
        return []


class TopBlocks(Strategy):
    """The top n blocks and what is above them are trained, with the head."""

    def __init__(self, n: int):
        self.n = n

    def prepare(self, model: Any) -> None:
        super().prepare(model)
        found = parts(model.backbone)
        if self.n > len(found.blocks):
            raise ValueError(
                f"finetune={self.n} asks for more than the {len(found.blocks)} blocks of the "
                f"backbone {type(model.backbone).__name__}."
            )
        self._n_frozen = len(found.blocks) - self.n
        self._blocks = found.blocks[self._n_frozen :]
        self._freeze({*found.above.values(), *_parameters(self._blocks)})

    def n_frozen(self, epoch: int) -> float:
        return self._n_frozen

    def _in_training_mode(self) -> list[nn.Module] | None:
        return self._blocks


class Gradual(Strategy):
    """The head, then one more block every few epochs, then the embeddings.

    Where there is no head outside of the backbone, as in a language model, the top block is first.
    """

    def __init__(self, epochs_per_block: int):
        self.epochs_per_block = epochs_per_block

    def prepare(self, model: Any) -> None:
        super().prepare(model)
        self._parts = parts(model.backbone)
        self._n_blocks = 0
        self._n_before = int(below_pooler(model.backbone) == set(model.parameters()))
        self._freeze(set())
        for parameter in self._frozen.values():
            parameter._thaws_later = True  # type: ignore[attr-defined]

    def begin_epoch(self, epoch: int) -> None:
        n = self._step(epoch)
        if n > 0:
            self._thaw(set(self._parts.above.values()))
        blocks = self._parts.blocks
        self._n_blocks = min(n, len(blocks))
        self._thaw(_parameters(blocks[len(blocks) - self._n_blocks :]))
        if n > len(blocks):
            self._thaw(set(self._parts.below.values()))

    def n_frozen(self, epoch: int) -> float:
        n = self._step(epoch)
        return max(0, len(self._parts.blocks) - n) if n > 0 else math.inf

    def _step(self, epoch: int) -> int:
        """Blocks that are trained in an epoch; more than there are for the embeddings too."""
        return self._n_before + epoch // self.epochs_per_block

    def _in_training_mode(self) -> list[nn.Module] | None:
        blocks = self._parts.blocks
        if not self._frozen:
            return None
        return blocks[len(blocks) - self._n_blocks :]


class Adapters(Strategy):
    """Low-rank adapters in the blocks are trained, with the head."""

    lr_factor = _LORA_FACTOR

    def __init__(self, spec: LoRA):
        self.spec = spec
        _peft()  # now: without it nothing else need be tried

    def prepare(self, model: Any) -> None:
        self._begin(model)
        backbone = model.backbone
        self._blocks = parts(backbone).blocks
        width = hidden_size(backbone.config)
        if self.spec.r > width:
            raise ValueError(
                f"LoRA(r={self.spec.r}) is more than the width {width} of the backbone "
                f"{type(backbone).__name__}: no change of its weights has a higher rank."
            )
        targets = self._targets(backbone)
        if not self._goes_on(backbone, targets):
            fold_adapters(backbone)
            add_adapters(backbone, self.spec, targets)
        adapters = set()
        for layer in lora_layers(backbone).values():
            if layer.merged:
                layer.unmerge()
            adapters |= {p for name, p in layer.named_parameters() if "lora_" in name}
        self._freeze(adapters)

    def _in_training_mode(self) -> list[nn.Module] | None:
        return self._blocks

    def finish(self) -> set[str]:
        names = super().finish()
        for layer in lora_layers(self._model.backbone).values():
            layer.merge()
        return names

    def _targets(self, backbone: Any) -> list[str]:
        """Names of the linear layers that get an adapter."""
        inside = {module for block in self._blocks for module in block.modules()}
        layers = {
            name.removesuffix(".base_layer"): module
            for name, module in backbone.named_modules()
            if _is_linear(module) and ".lora_" not in name
        }
        wanted = self.spec.target_modules
        if isinstance(wanted, str):
            return [name for name, module in layers.items() if module in inside]
        for end in wanted:
            if not any(f".{name}".endswith(f".{end}") for name in layers):
                raise ValueError(
                    f"LoRA(target_modules=...) names {end!r}, but no linear layer of the backbone "
                    f"{type(backbone).__name__} ends so; some of them are {list(layers)[:8]}."
                )
        return [name for name in layers if any(f".{name}".endswith(f".{end}") for end in wanted)]

    def _goes_on(self, backbone: Any, targets: list[str]) -> bool:
        """Whether an earlier fit left the very adapters that this one asks for."""
        layers = lora_layers(backbone)
        settings = {(layer.r["default"], layer.lora_alpha["default"]) for layer in layers.values()}
        return set(layers) == set(targets) and settings == {(self.spec.r, self.spec.alpha)}


class Biases(Strategy):
    """The bias terms of the backbone are trained, with the head."""

    lr_factor = _BITFIT_FACTOR

    def prepare(self, model: Any) -> None:
        super().prepare(model)
        found = parts(model.backbone)
        biases = {p for name, p in model.backbone.named_parameters() if name.endswith("bias")}
        if not biases:
            raise ValueError(
                f"finetune=BitFit() trains biases, but the backbone "
                f"{type(model.backbone).__name__} has none."
            )
        self._freeze(biases)
        self._blocks = _with_any(found, biases)

    def _in_training_mode(self) -> list[nn.Module] | None:
        return self._blocks


class BeginEpoch(Callback):
    """Tell a strategy that an epoch begins; some may have been made before."""

    def __init__(self, strategy: Strategy, n_before: int = 0):
        self.strategy = strategy
        self.n_before = n_before

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        epoch = self.n_before + len(net.history) - 1
        self.strategy.begin_epoch(epoch)
        if net.frozen is not None:
            net.frozen.begin_epoch(epoch)


def strategy_of(finetune: Any) -> Strategy:
    """The strategy that an estimator's parameter ``finetune`` stands for."""
    if isinstance(finetune, GradualUnfreezing):
        return Gradual(finetune.epochs_per_block)
    if isinstance(finetune, LoRA):
        return Adapters(finetune)
    if isinstance(finetune, BitFit):
        return Biases()
    if isinstance(finetune, str):
        return Strategy() if finetune == "full" else HeadOnly()
    return TopBlocks(int(finetune))


def add_adapters(backbone: nn.Module, spec: LoRA, targets: list[str]) -> None:
    """Put adapters beside the linear layers of these names; spec.target_modules is not read."""
    natural = {p for p in backbone.parameters() if p.requires_grad}
    config = _peft().LoraConfig(
        r=spec.r, lora_alpha=spec.alpha, lora_dropout=spec.dropout, target_modules=targets
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GPT-2's layers are transposed: PEFT finds out itself
        _peft().inject_adapter_in_model(config, backbone)
    for parameter in natural:  # PEFT freezes them for good
        parameter.requires_grad = True


def lora_layers(backbone: nn.Module) -> dict[str, Any]:
    """Layers with an adapter, by name."""
    return {name: module for name, module in backbone.named_modules() if hasattr(module, "lora_A")}


def fold_adapters(backbone: nn.Module) -> None:
    """Put plain layers with the merged weights in the place of those with an adapter."""
    for name, layer in lora_layers(backbone).items():
        if not layer.merged:
            layer.merge()
        parent, _, last = name.rpartition(".")
        setattr(backbone.get_submodule(parent), last, layer.get_base_layer())


def _with_any(found: Parts, trained: set[nn.Parameter]) -> list[nn.Module] | None:
    if trained & set(found.below.values()):
        return None
    return [block for block in found.blocks if trained & set(block.parameters())]


def _is_linear(module: nn.Module) -> bool:
    # GPT-2's are called Conv1D, and hold their weight transposed.
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _parameters(modules: list[nn.Module]) -> set[nn.Parameter]:
    return {parameter for module in modules for parameter in module.parameters()}


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError(
            "finetune=LoRA() needs the library PEFT: pip install sktransformers[peft]"
        ) from error
    return peft
