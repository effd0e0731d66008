"""The head that a family has in the transformers library, in the two stages of our models."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput

from sktransformers.modules.backbone import drop_pooler, padding_as_given, padding_last
from sktransformers.modules.model import SequenceConfig, TaggingConfig, not_in_one_pass, one_pass
from sktransformers.modules.pooling import SegmentPooling
from sktransformers.modules.softmax import most_probable


class NativeSequenceConfig(SequenceConfig):
    """Configuration of `NativeSequenceModel`; ``backbone_config`` is that of the whole model."""

    model_type = "sktransformers-native-sequence"

    def __init__(self, **kwargs: Any):  # transformers would write one of its own
        super().__init__(**kwargs)


class NativeTaggingConfig(TaggingConfig):
    """Configuration of `NativeTaggingModel`; ``backbone_config`` is that of the whole model."""

    model_type = "sktransformers-native-tagging"

    def __init__(self, **kwargs: Any):  # as above
        super().__init__(**kwargs)


class LastLayer(NamedTuple):
    """What other code looks for in a head: the layer that gives the logits."""

    out: nn.Linear


class NativeModel(PreTrainedModel):
    """A model of the transformers library, head included.

    Parameters
    ----------
    config : NativeSequenceConfig or NativeTaggingConfig
    native : PreTrainedModel, default=None
        The model with its weights, taken over as it is; None builds one with random weights.

    Attributes
    ----------
    auto : type
        The class of the transformers library that knows all families' models for the task.
    unit : {"window", "word"}
        What `encode` gives logits for.
    """

    base_model_prefix = "native"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    needs_whole_batches = False
    auto: ClassVar[Any]
    unit: str

    def __init__(self, config: Any, native: PreTrainedModel | None = None):
        super().__init__(config)
        if native is None:
            native = self.auto.from_config(config.backbone_config)
        else:
            module: Any
            for module in native.modules():  # post_init must leave these weights alone
                module._is_hf_initialized = True
        self.native: Any = native
        self._out = last_layer(native)
        self._add_parts(config)
        self.post_init()

    @property
    def backbone(self) -> Any:
        """The model below the head; a pooler that the head reads is part of it."""
        return self.native.base_model

    @property
    def head(self) -> LastLayer:
        """The layer that gives the logits, as ``head.out``."""
        return LastLayer(self.native.get_submodule(self._out))

    def _add_parts(self, config: Any) -> None:
        """Make whatever stands behind the head."""

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the start of all weights to the family's own class."""

    def start_last_layer(self) -> None:
        """Start the layer that gives the logits anew: N(0, 0.02) and no bias, as our own head."""
        out = self.head.out
        nn.init.normal_(out.weight, std=0.02)
        if out.bias is not None:
            nn.init.zeros_(out.bias)

    @torch.no_grad()
    def reorder(self, order: Sequence[int]) -> None:
        """Put the logits in another order, with the names that the configurations give them."""
        out = self.head.out
        out.weight.copy_(out.weight[list(order)])
        if out.bias is not None:
            out.bias.copy_(out.bias[list(order)])
        names = labels_of(self.config)
        names = [names[i] for i in order]
        for config in (self.config, self.native.config):
            set_labels(config, names)

    def logits(self, input_ids: Tensor, attention_mask: Tensor, **types: Tensor) -> Tensor:
        """What the family's own model gives."""
        pad_id = self.native.config.get_text_config().pad_token_id
        if pad_id is not None:  # by it, and not by the mask, some families know the last token
            input_ids = input_ids.masked_fill(attention_mask == 0, pad_id)
        return self.native(input_ids=input_ids, attention_mask=attention_mask, **types).logits

    def fixed_stage(self) -> None:
        """Nothing but the backbone: a pooler is part of the head."""
        return None

    def _watched(self, **inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, and what the last layer read and gave."""
        seen: list[tuple[Tensor, Tensor]] = []

        def watch(_: nn.Module, args: Any, output: Tensor) -> None:
            seen.append((args[0], output))

        hook = self.head.out.register_forward_hook(watch)
        try:
            logits = self.logits(**inputs)
        finally:
            hook.remove()
        if len(seen) != 1:
            raise self._not_the_last()
        return logits, *seen[0]

    def _not_the_last(self) -> ValueError:
        return ValueError(
            f"The logits of {type(self.native).__name__} are not what its layer {self._out!r} "
            f'gives, so that a probe is no start for it; take head_init="random".'
        )


class NativeSequenceModel(NativeModel):
    """Logits of each text as the family's model for sequence classification gives them.

    The logits of a text are the mean of those of its windows, and the logits of a row the
    mean over its texts (a pair in both orders).
    """

    config_class: Any = NativeSequenceConfig
    auto = AutoModelForSequenceClassification
    unit = "window"

    def _add_parts(self, config: Any) -> None:
        self.window_pooling = SegmentPooling(config.window_pooling, len(config.id2label))

    def encode(self, input_ids: Tensor, attention_mask: Tensor, **types: Tensor) -> Tensor:
        """Logits of shape (n_sequences, n_outputs)."""
        return self.logits(input_ids, attention_mask, **types)

    def read(self, input_ids: Tensor, attention_mask: Tensor, **types: Tensor) -> Tensor:
        """What the last layer reads of each sequence, of shape (n_sequences, width)."""
        logits, vectors, outputs = self._watched(
            input_ids=input_ids, attention_mask=attention_mask, **types
        )
        if outputs.shape == logits.shape and (outputs == logits).all():
            return vectors
        # It reads every token, and the family's class picks one's outputs: theirs say which.
        if outputs.ndim != 3 or outputs.shape[:2] != attention_mask.shape:
            raise self._not_the_last()
        picked = (outputs == logits.unsqueeze(1)).all(dim=-1) & attention_mask.bool()
        if not picked.any(dim=1).all():
            raise self._not_the_last()
        each, place = (torch.arange(n, device=picked.device) for n in picked.shape)
        return vectors[each, (place * picked).argmax(dim=1)]

    def decide(self, vectors: Tensor, sizes: Tensor, rows: Tensor) -> Tensor:
        """Means of shape (n_rows, n_outputs).

        Parameters
        ----------
        vectors : Tensor of shape (n_windows, n_outputs)
            What `encode` gave, text after text.
        sizes : LongTensor of shape (n_texts,)
            Windows of each text.
        rows : LongTensor of shape (n_rows, n_texts_a_row)
            Texts of each row.
        """
        return self.window_pooling(vectors, sizes)[rows].mean(dim=1)

    def most_probable(self, vectors: Tensor, sizes: Tensor, rows: Tensor, k: int) -> Tensor:
        """The k most probable outputs of each row, see `softmax.most_probable`."""
        logits = self.decide(vectors, sizes, rows)
        return most_probable(nn.Identity(), logits, logits.shape[1], k)

    def probe_stages(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor] | None]:
        """The two stages, of what the last layer reads instead of what it gives."""
        # It is affine: the mean of its outputs is the output of the mean.
        return self.read, self.decide

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Logits of texts that are one sequence each, padded on either side.

        Raises
        ------
        ValueError
            As `SequenceModel.forward`.
        """
        if self.config.symmetric:
            raise not_in_one_pass("symmetric=True reads both orders of a pair")
        inputs = one_pass(self.backbone, input_ids, attention_mask, token_type_ids)
        return SequenceClassifierOutput(logits=self.encode(**padding_last(**inputs)))


class NativeTaggingModel(NativeModel):
    """Logits of each word as the family's model for token classification gives them.

    A word has the logits of its first piece, or of its last.
    """

    config_class: Any = NativeTaggingConfig
    auto = AutoModelForTokenClassification
    unit = "word"

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        word_rows: Tensor,
        word_begins: Tensor,
        word_ends: Tensor,
    ) -> Tensor:
        """Logits of shape (n_words, n_tags); parameters as in `TaggingModel.word_vectors`."""
        return self._words(
            self.logits(input_ids, attention_mask), word_rows, word_begins, word_ends
        )

    def words(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        word_rows: Tensor,
        word_begins: Tensor,
        word_ends: Tensor,
    ) -> Tensor:
        """What the last layer reads of each word, of shape (n_words, width)."""
        logits, vectors, outputs = self._watched(input_ids=input_ids, attention_mask=attention_mask)
        if outputs.shape != logits.shape or not (outputs == logits).all():
            raise self._not_the_last()
        return self._words(vectors, word_rows, word_begins, word_ends)

    def _words(self, tokens: Tensor, rows: Tensor, begins: Tensor, ends: Tensor) -> Tensor:
        return tokens[rows, begins if self.config.subword == "first" else ends - 1]

    def decide(self, logits: Tensor, sizes: Tensor, rows: Tensor) -> Tensor:
        """Logits as they are; parameters as in `TaggingModel.decide`."""
        return logits

    def probe_stages(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor] | None]:
        """The stage that ends before the last layer."""
        return self.words, None

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> TokenClassifierOutput:
        """Logits of every token, as `TaggingModel.forward`."""
        inputs = padding_last(**one_pass(self.backbone, input_ids, attention_mask, token_type_ids))
        return TokenClassifierOutput(logits=padding_as_given(self.logits(**inputs), attention_mask))


def last_layer(native: Any) -> str:
    """Name of the linear layer that gives a model's logits.

    Raises
    ------
    ValueError
        If there is none with one output for each logit behind the backbone, or the head takes
        padding for tokens.
    """
    summary = getattr(native, "sequence_summary", None)
    if getattr(summary, "summary_type", None) == "last":
        raise ValueError(
            f"{type(native).__name__} reads the last place of a batch, padding or not: its head "
            f"does not go with batches of uneven lengths. Take another head."
        )
    n_outputs = native.config.num_labels
    inside = set(native.base_model.modules())
    names = [
        name
        for name, module in native.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == n_outputs
        if module not in inside
    ]
    if not names:
        raise ValueError(
            f"The head of {type(native).__name__} (family {native.config.model_type!r}) has no "
            f'linear layer with {n_outputs} outputs, as head="native" needs; take another head.'
        )
    return names[-1]


def labels_of(config: Any) -> list[str]:
    """Names of a model's logits."""
    return [str(config.id2label.get(i, f"LABEL_{i}")) for i in range(config.num_labels)]


def set_labels(config: Any, names: Sequence[str]) -> None:
    """Write the names of the logits into a configuration."""
    config.num_labels = len(names)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}


def set_pad_id(config: Any, pad_id: int) -> None:
    """Tell a family's class which token is padding, where its configuration does not."""
    text = config.get_text_config()
    if text.pad_token_id is None or text.pad_token_id < 0:
        text.pad_token_id = pad_id


def put_head(auto: Any, given: Any, names: Sequence[str]) -> Any:
    """The family's model with a head around a copy of a model's backbone.

    Where the model that was given has parts of that very head, they come along.

    Parameters
    ----------
    auto : type
        As `NativeModel.auto`.
    given : PreTrainedModel
        Any model of the family, left as it is.
    names : sequence of str
        Name of each logit.
    """
    backbone = copy.deepcopy(given.base_model)
    set_labels(backbone.config, names)
    with torch.device("meta"):
        native = auto.from_config(backbone.config)
    pooler = getattr(native.base_model, "pooler", None)
    if pooler is None:
        drop_pooler(backbone)
    elif getattr(backbone, "pooler", None) is None:
        backbone.pooler = pooler
    setattr(native, native.base_model_prefix, backbone)
    native.config = backbone.config
    for module in native.modules():
        if any(p.is_meta for p in module.parameters(recurse=False)):
            module.to_empty(device=backbone.device, recurse=False).to(backbone.dtype)
            with torch.no_grad():
                native._init_weights(module)
    if type(given) is type(native):
        shapes = {name: weight.shape for name, weight in native.state_dict().items()}
        weights = given.state_dict()
        fitting = {name: w for name, w in weights.items() if w.shape == shapes.get(name)}
        native.load_state_dict(fitting, strict=False)
    return native
