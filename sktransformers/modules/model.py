"""Backbone, pooling and head as one model of the transformers library.

Every model works in two stages. ``encode`` runs padded sequences through the backbone and
gives a few vectors of each: one a window, a word or a token, as ``unit`` says. ``decide``
joins the vectors of a row, whose sequences may have gone through the backbone at different
times, and gives its logits.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput

from sktransformers.modules.backbone import (
    padding_as_given,
    padding_last,
    position_limit,
    token_vectors,
    vector_size,
)
from sktransformers.modules.crf import CRFOutput, LinearChainCRF
from sktransformers.modules.encoders import new_backbone, settle
from sktransformers.modules.heads import Head
from sktransformers.modules.interaction import WIDTHS, CrossAttention, combine
from sktransformers.modules.narrowing import narrow, only_read_by
from sktransformers.modules.pooling import Pooling, SegmentPooling
from sktransformers.modules.softmax import Deferred, most_probable


class TextConfig(PreTrainedConfig):
    """What the configurations of our models have in common.

    Parameters
    ----------
    backbone_config : PreTrainedConfig or dict
        Configuration of the backbone.
    head_hidden_sizes, head_activation, head_dropout, head_batch_norm, head_layer_norm
        As in `Head`.
    head_softmax, head_bias
        Likewise.
    id2label : dict of int to str
        Name of each logit.
    """

    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012 (transformers reads it so)

    def __init__(
        self,
        backbone_config: Any = None,
        head_hidden_sizes: Sequence[int] = (),
        head_activation: str | None = None,
        head_dropout: float = 0.1,
        head_batch_norm: bool = False,
        head_layer_norm: bool = False,
        head_softmax: dict[str, Any] | None = None,
        head_bias: bool = True,
        **kwargs: Any,
    ):
        if isinstance(backbone_config, dict):
            backbone_config = AutoConfig.for_model(**backbone_config)
        self.backbone_config = backbone_config
        self.head_hidden_sizes = list(head_hidden_sizes)
        self.head_activation = head_activation
        self.head_dropout = head_dropout
        self.head_batch_norm = head_batch_norm
        self.head_layer_norm = head_layer_norm
        self.head_softmax = head_softmax
        self.head_bias = head_bias
        # Not given, transformers would unset the backbone's: its masks would then be lost.
        kwargs.setdefault(
            "attn_implementation", getattr(backbone_config, "_attn_implementation", None)
        )
        super().__init__(**kwargs)


class TextModel(PreTrainedModel):
    """A backbone with a head behind it.

    Parameters
    ----------
    config : TextConfig
    backbone : PreTrainedModel, default=None
        Backbone with its weights, taken over as it is; None builds one with random weights.

    Attributes
    ----------
    unit : {"window", "word", "token"}
        What `encode` gives one vector for.
    defers : bool
        Whether the loss works out what it needs of the last layer: in training, `decide` then
        leaves that to it.
    """

    config_class: Any = TextConfig
    base_model_prefix = "backbone"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    head: Any
    unit: str
    defers = False

    def __init__(self, config: Any, backbone: PreTrainedModel | None = None):
        super().__init__(config)
        if backbone is None:
            backbone = new_backbone(config.backbone_config)
        else:
            module: Any
            for module in backbone.modules():  # post_init must leave these weights alone
                module._is_hf_initialized = True
        settle(backbone)
        self.backbone = backbone
        self._add_parts(config, vector_size(config.backbone_config))
        for name, part in self.named_children():
            if name != "backbone":
                part.to(backbone.dtype)
        self.post_init()

    def _add_parts(self, config: Any, width: int) -> None:
        """Make whatever stands behind the backbone."""
        raise NotImplementedError

    def _make_head(self, config: Any, width: int, n_outputs: int | None = None) -> Head:
        return Head(
            width,
            len(config.id2label or ()) if n_outputs is None else n_outputs,
            config.head_hidden_sizes,
            config.head_activation,
            config.head_dropout,
            config.head_batch_norm,
            config.head_layer_norm,
            config.head_softmax,
            config.head_bias,
        )

    def narrow(self) -> bool:
        """Have the last block computed only where it is read; False where that cannot be."""
        return True

    @property
    def device(self) -> torch.device:
        """Where inputs and outputs are: that of the head, if the backbone lies on several."""
        return next(self.head.parameters()).device

    @property
    def needs_whole_batches(self) -> bool:
        """Whether in training the logits of a row depend on the other rows of its batch."""
        return self.config.head_batch_norm

    def head_stages(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor] | None]:
        """The two stages that end before the head, with all it reads of a row side by side."""
        raise NotImplementedError

    def fixed_stage(self) -> Callable[..., Tensor] | None:
        """What depends on no weights but the backbone's; None if that is only the backbone.

        It and `encode` take what it gave before as ``kept``, instead of tokens.
        """
        raise NotImplementedError

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Only the head is ours to start: N(0, 0.02) and no bias, as BERT's.
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def not_in_one_pass(what: str) -> ValueError:
    """The error about a model that does more for a row than one forward pass."""
    return ValueError(
        f"{what}, which one forward pass cannot do: sktransformers.load reads the directory, and "
        f"the estimator that it returns predicts."
    )


def one_pass(
    backbone: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
) -> dict[str, Tensor]:
    """Inputs of a forward pass as keywords, with a mask in any case.

    Raises
    ------
    ValueError
        If they are longer than what the backbone reads.
    """
    limit = position_limit(backbone)
    if limit is not None and input_ids.shape[1] > limit:
        raise not_in_one_pass(
            f"A sequence of {input_ids.shape[1]} tokens, of which the backbone reads {limit}, must "
            f"be cut (truncation=True of the tokenizer) or read in windows"
        )
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
    return {"input_ids": input_ids, "attention_mask": attention_mask, **types}


def probe_vectors(model: Any, run: Callable[..., Any]) -> Any:
    """What the last linear layer of a model reads of rows, as an array.

    Parameters
    ----------
    model : PreTrainedModel
        One of ours, in evaluation mode.
    run : callable
        ``run(encode, decide)`` gives an array of what two stages make of the rows.
    """
    if not model.config.head_batch_norm:
        return run(*model.probe_stages())
    # Normalised as in training, or the last layer would start from other features.
    return settled_vectors(model.head, run(*model.head_stages()))


def settled_vectors(head: Head, inputs: Any) -> Any:
    """What the last layer of a head reads of rows, once its running averages are those of them.

    inputs is an array of what ``head_stages`` gave; an array comes back.
    """
    readings = torch.from_numpy(inputs).unflatten(1, (-1, head.in_features))
    hidden = head.settle(readings).mean(dim=1)
    return hidden.to(torch.promote_types(hidden.dtype, torch.float32)).cpu().numpy()


class SequenceConfig(TextConfig):
    """Configuration of `SequenceModel`.

    Parameters
    ----------
    pooling : str
        One of the modes of `Pooling`.
    window_pooling : {"mean", "max", "attention"}
        How the vectors of a text's windows become one.
    symmetric : bool
        Whether the logits of a pair are the mean over both orders.
    **kwargs
        As in `TextConfig`.
    """

    model_type = "sktransformers-sequence"

    def __init__(
        self,
        pooling: str = "mean",
        window_pooling: str = "mean",
        symmetric: bool = False,
        **kwargs: Any,
    ):
        self.pooling = pooling
        self.window_pooling = window_pooling
        self.symmetric = symmetric
        super().__init__(**kwargs)


class SequenceModel(TextModel):
    r"""One vector a text, and logits from it.

    With token vectors :math:`H = backbone(x)` and :math:`h = pool(H)` (for CLS pooling
    :math:`h_{CLS} = H_1`), the class probabilities are :math:`y = softmax(h W_C)` with a
    bias, as in Devlin et al. 2019 (arXiv:1810.04805), section 4.1. The h of a text in
    several windows is the pooled h of its windows; of several texts a row (a pair in both
    orders), the logits are averaged.
    """

    config_class: Any = SequenceConfig
    unit = "window"

    def _add_parts(self, config: Any, width: int) -> None:
        self.pooling = Pooling(config.pooling, width)
        self.window_pooling = SegmentPooling(config.window_pooling, width)
        self.head = self._make_head(config, width)

    def encode(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        kept: Tensor | None = None,
        **types: Tensor,
    ) -> Tensor:
        """What `decide` reads of each sequence, pooled vectors of shape (n_sequences, width)."""
        return self._read(input_ids, attention_mask, **types) if kept is None else kept

    def _read(self, input_ids: Any, attention_mask: Any, **types: Tensor) -> Tensor:
        with only_read_by(self.pooling, attention_mask):
            hidden = token_vectors(self.backbone, input_ids, attention_mask, **types)
        return self.pooling(hidden, attention_mask)

    def narrow(self) -> bool:
        """Have the last block computed only where pooling reads it; False if that cannot be."""
        reads_all = self.unit != "window" or not self.pooling.reads_one
        return reads_all or narrow(self.backbone, self.pooling)

    def fixed_stage(self) -> Callable[..., Tensor] | None:
        """`encode`, unless pooling has weights."""
        return None if list(self.pooling.parameters()) else self.encode

    def represent(self, vectors: Tensor, sizes: Tensor, rows: Tensor) -> Tensor:
        """What the last linear layer reads, of shape (n_rows, width).

        Parameters
        ----------
        vectors : Tensor of shape (n_vectors, width)
            What `encode` gave, text after text.
        sizes : LongTensor of shape (n_texts,)
            Vectors of each text.
        rows : LongTensor of shape (n_rows, n_texts_a_row)
            Texts of each row.
        """
        # The last layer is affine: the mean of its outputs is the output of the mean.
        return self.head.hidden(self._row_vectors(vectors, sizes, rows)).mean(dim=1)

    def _row_vectors(self, vectors: Tensor, sizes: Tensor, rows: Tensor) -> Tensor:
        """Vectors of shape (n_rows, n_readings, width) whose logits are averaged."""
        return self.window_pooling(vectors, sizes)[rows]

    def decide(self, vectors: Tensor, sizes: Tensor, rows: Tensor) -> Tensor | Deferred:
        """`logits`, or for a loss that works them out itself, what it needs for it."""
        if self.training and self.defers:
            return Deferred(self.represent(vectors, sizes, rows), self.head.out)
        return self.logits(vectors, sizes, rows)

    def logits(self, vectors: Tensor, sizes: Tensor, rows: Tensor) -> Tensor:
        """Logits of shape (n_rows, n_outputs); parameters as in `represent`."""
        return self.head.out(self.represent(vectors, sizes, rows))

    def most_probable(self, vectors: Tensor, sizes: Tensor, rows: Tensor, k: int) -> Tensor:
        """The k most probable outputs of each row, see `softmax.most_probable`."""
        n_outputs: Any = self.config.num_labels
        return most_probable(self.head.out, self.represent(vectors, sizes, rows), n_outputs, k)

    def head_stages(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor] | None]:
        """The two stages that end before the head."""
        return self.encode, lambda *layout: self._row_vectors(*layout).flatten(1)

    def probe_stages(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor] | None]:
        """The two stages that end before the last linear layer."""
        return self.encode, self.represent

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
            If a row is more than that: two orders of a pair, or a text in windows.
        """
        if self.config.symmetric:
            raise not_in_one_pass("symmetric=True reads both orders of a pair")
        each = torch.arange(len(input_ids), device=input_ids.device)
        inputs = one_pass(self.backbone, input_ids, attention_mask, token_type_ids)
        vectors = self.encode(**padding_last(**inputs))
        logits = self.logits(vectors, torch.ones_like(each), each.unsqueeze(1))
        return SequenceClassifierOutput(logits=logits)


class PairConfig(SequenceConfig):
    """Configuration of `PairModel`.

    Parameters
    ----------
    interaction : {"concat", "difference", "product", "all", "attention"}
        How two texts meet, see `combine` and `CrossAttention`.
    **kwargs
        As in `SequenceConfig`.
    """

    model_type = "sktransformers-pair"

    def __init__(self, interaction: str = "all", **kwargs: Any):
        self.interaction = interaction
        super().__init__(**kwargs)


class PairModel(SequenceModel):
    """A bi-encoder: both texts through one backbone, then an interaction and the head.

    See Reimers and Gurevych 2019 (arXiv:1908.10084). Pairs that are read as one joined
    sequence need no more than `SequenceModel`.
    """

    config_class: Any = PairConfig

    def _add_parts(self, config: Any, width: int) -> None:
        self.pooling = Pooling(config.pooling, width)
        self.window_pooling = SegmentPooling(config.window_pooling, width)
        if config.interaction == "attention":
            self.cross_attention = CrossAttention(width)
        self.head = self._make_head(config, WIDTHS[config.interaction] * width)

    @property
    def unit(self) -> str:  # type: ignore[override]
        """Tokens for attention between them, else windows."""
        return "token" if self.config.interaction == "attention" else "window"

    def _read(self, input_ids: Any, attention_mask: Any, **types: Tensor) -> Tensor:
        if self.unit == "window":
            return super()._read(input_ids, attention_mask, **types)
        hidden = token_vectors(self.backbone, input_ids, attention_mask, **types)
        return hidden[attention_mask.bool()]

    def fixed_stage(self) -> Callable[..., Tensor] | None:
        """`encode`, unless pooling has weights."""
        return self.encode if self.unit == "token" else super().fixed_stage()

    def _row_vectors(self, vectors: Tensor, sizes: Tensor, rows: Tensor) -> Tensor:
        orders = [rows, rows.flip(1)] if self.config.symmetric else [rows]
        if self.unit == "token":
            found = [self._attend(vectors, sizes, order) for order in orders]
        else:
            texts = self.window_pooling(vectors, sizes)
            mode = self.config.interaction
            found = [combine(mode, texts[order[:, 0]], texts[order[:, 1]]) for order in orders]
        return torch.stack(found, dim=1)

    def _attend(self, vectors: Tensor, sizes: Tensor, rows: Tensor) -> Tensor:
        begins = sizes.cumsum(0) - sizes
        sides = []
        for texts in rows.unbind(1):
            places = torch.arange(int(sizes[texts].max()), device=vectors.device)
            mask = places < sizes[texts].unsqueeze(1)
            sides += [vectors[(begins[texts].unsqueeze(1) + places) * mask], mask]
        return self.cross_attention(*sides)

    def forward(self, *args: Any, **kwargs: Any) -> SequenceClassifierOutput:
        """Nothing but an error: a row is two sequences."""
        raise not_in_one_pass(
            f"interaction={self.config.interaction!r} reads the two texts of a pair by themselves"
        )


class TaggingConfig(TextConfig):
    """Configuration of `TaggingModel`.

    Parameters
    ----------
    subword : {"first", "mean", "last", "max"}
        How the pieces of a word become one vector.
    self_attention : bool
        Whether a self-attention layer stands between backbone and head.
    crf : bool
        Whether tags are scored as a sequence.
    **kwargs
        As in `TextConfig`.
    """

    model_type = "sktransformers-tagging"

    def __init__(
        self,
        subword: str = "first",
        self_attention: bool = False,
        crf: bool = False,
        **kwargs: Any,
    ):
        self.subword = subword
        self.self_attention = self_attention
        self.crf = crf
        super().__init__(**kwargs)


class SelfAttention(nn.Module):
    r"""One more layer of self-attention, :math:`h_i^{att} = h_i + \sum_j a_{ij} V h_j U`.

    Weights :math:`a_i = softmax_j(h_i Q (h_j K)^T / \sqrt d)` (Vaswani et al. 2017,
    arXiv:1706.03762). U starts at zero: training begins with the backbone's own vectors.

    Parameters
    ----------
    width : int
        Width d of the token vectors.
    dropout : float
        Probability of dropping an attention weight in training.
    """

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 1, dropout=dropout, batch_first=True)
        nn.init.zeros_(self.attention.out_proj.weight)
        module: Any
        for module in self.modules():  # started here: post_init must leave it alone
            module._is_hf_initialized = True

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Map hidden (batch, length, width) under a mask (batch, length) to the same shape."""
        padding = attention_mask == 0
        found, _ = self.attention(hidden, hidden, hidden, padding, need_weights=False)
        return hidden + found


class TaggingModel(TextModel):
    r"""One vector a word, and logits from it.

    The logits of word i are :math:`h_i W_K` with a bias, h_i pooled from the word's pieces;
    their softmax over the K tags gives the tag (Devlin et al. 2019, arXiv:1810.04805,
    section 5.3). A CRF adds scores of neighbouring tags.
    """

    config_class: Any = TaggingConfig
    unit = "word"

    def _add_parts(self, config: Any, width: int) -> None:
        if config.self_attention:
            self.self_attention = SelfAttention(width, config.head_dropout)
        self.subword = SegmentPooling(config.subword, width)
        self.head = self._make_head(config, width)
        if config.crf:
            self.crf = LinearChainCRF(len(config.id2label or ()))

    def word_vectors(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        word_rows: Any = None,
        word_begins: Any = None,
        word_ends: Any = None,
        kept: Tensor | None = None,
    ) -> Tensor:
        """One vector a word, of shape (n_words, width).

        Parameters
        ----------
        input_ids, attention_mask : Tensor of shape (n_sequences, length)
        word_rows, word_begins, word_ends : LongTensor of shape (n_words,)
            The sequence of each word, its first token there, and the one behind its last.
        kept : Tensor of shape (n_words, width), default=None
            As in `fixed_stage`.
        """
        if kept is not None:
            return kept
        hidden = token_vectors(self.backbone, input_ids, attention_mask)
        if self.config.self_attention:
            hidden = self.self_attention(hidden, attention_mask)
        # Pieces of all words, one after the other, as positions in the flat rectangle.
        sizes = word_ends - word_begins
        first = word_rows * hidden.shape[1] + word_begins
        before = sizes.cumsum(0) - sizes
        total = int(sizes.sum())
        pieces = torch.repeat_interleave(first - before, sizes, output_size=total)
        pieces = pieces + torch.arange(total, device=pieces.device)
        return self.subword(hidden.flatten(0, 1)[pieces], sizes)

    def words(self, **inputs: Tensor) -> Tensor:
        """What the last linear layer reads of each word; parameters as in `word_vectors`."""
        return self.head.hidden(self.word_vectors(**inputs))

    def encode(self, **inputs: Tensor) -> Tensor:
        """Logits of shape (n_words, n_tags); parameters as in `word_vectors`.

        In training with batch normalisation, which wants all words of a batch together, the
        vectors before the head: `decide` applies it then.
        """
        vectors = self.word_vectors(**inputs)
        return vectors if self._head_waits else self.head(vectors)

    @property
    def _head_waits(self) -> bool:
        return self.training and self.needs_whole_batches

    def decide(self, logits: Tensor, sizes: Tensor, rows: Tensor) -> Tensor | CRFOutput:
        """Logits of the words, with a CRF together with the scores of neighbouring tags.

        Parameters
        ----------
        logits : Tensor of shape (n_words, n_tags)
            What `encode` gave, sentence after sentence.
        sizes : LongTensor of shape (n_sentences,)
            Words of each sentence.
        rows : LongTensor of shape (n_sentences, 1)
            Not looked at: sentences come in their own order.
        """
        if self._head_waits:
            logits = self.head(logits)
        return self.crf(logits, sizes) if self.config.crf else logits

    def fixed_stage(self) -> Callable[..., Tensor] | None:
        """`word_vectors`, unless another layer of attention stands before them."""
        with_weights = self.config.self_attention or list(self.subword.parameters())
        return None if with_weights else self.word_vectors

    def head_stages(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor] | None]:
        """The stage that ends before the head."""
        return self.word_vectors, None

    def probe_stages(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor] | None]:
        """The stage that ends before the last linear layer."""
        return self.words, None

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> TokenClassifierOutput:
        """Logits of every token, of shape (batch, length, n_tags), padded on either side.

        Those of a word are those of its first token, or of its last with ``subword="last"``.

        Raises
        ------
        ValueError
            If tags depend on more than one token's logits, or a sentence takes windows.
        """
        if self.config.crf:
            raise not_in_one_pass("A CRF (head, crf) scores the tags of a sentence together")
        if self.config.subword not in ("first", "last"):
            raise not_in_one_pass(f"subword={self.config.subword!r} joins the tokens of a word")
        inputs = padding_last(**one_pass(self.backbone, input_ids, attention_mask, token_type_ids))
        hidden = token_vectors(self.backbone, **inputs)
        if self.config.self_attention:
            hidden = self.self_attention(hidden, inputs["attention_mask"])
        return TokenClassifierOutput(logits=padding_as_given(self.head(hidden), attention_mask))
