"""Train only the rows of the input embedding that occur in the training texts.

A row that never occurs has a gradient of zero in every step. Then Adam's moments stay zero and so
does the update: all that AdamW, or SGD, ever does to the row is decoupled weight decay, the same
factor for all such rows. So it is enough to train a small table of the rows that occur, and to
decay the others once, at the end. Gradients and the optimizer's state are those of the small
table, and nothing else changes: neither the norm of the gradients nor the trained weights.

What the factor is need not be computed from rates and skipped steps: the small table has one row
more, which nothing reads. What happens to this witness would have happened to every row that does
not occur.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Smaller tables, and those of which a larger share of rows occurs, would gain little.
_MIN_ROWS = 4096
_MAX_SHARE = 0.5
# They compute each entry of a weight from that entry and its gradients alone, and leave it where
# it is while all of its gradients are zero.
_ENTRY_WISE = {
    torch.optim.Adadelta,
    torch.optim.Adagrad,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.SGD,
}


def leaves_unseen_rows_alone(optimizer: torch.optim.Optimizer) -> bool:
    """Whether rows without a gradient are at most scaled, all by the same factor.

    Decay that goes through the gradients (L2) enters Adam's moments and the gradients' norm.
    """
    decoupled = type(optimizer) is torch.optim.AdamW  # the others say so in their groups
    return type(optimizer) in _ENTRY_WISE and not any(
        group.get("l2")
        or (group["weight_decay"] and not (decoupled or group.get("decoupled_weight_decay")))
        for group in optimizer.param_groups
    )


@contextmanager
def compacted(net: Any, ids: np.ndarray, verbose: bool = False) -> Iterator[None]:
    """Inside, the net trains only some rows of its backbone's input embedding.

    Afterwards, also after an error, the embedding is the ordinary one again, with all rows as
    if all had been trained. Where that could not be promised, or would gain nothing, it is not
    touched.

    Parameters
    ----------
    net : FineTuningNet
        A net whose optimizer has not been built yet.
    ids : ndarray of int
        Token ids that occur in the training rows, and whatever others are to be trained.
    verbose : bool, default=False
        Whether to say what is done.
    """
    embedding = _large_table(net.module)
    if embedding is None:
        yield
        return
    full = embedding.weight
    ids = np.union1d(ids, [i for i in (net.pad_id, embedding.padding_idx) if i is not None])
    ids = ids[ids < len(full)].astype(np.int64)
    objection = _objection(net, full, len(ids))
    if objection:
        if verbose:
            print(f"The vocabulary is not compacted: {objection}.")
        yield
        return
    if verbose:
        print(f"{len(ids)} of {len(full)} tokens of the vocabulary are trained.")
    rows = _compact(embedding, torch.from_numpy(ids).to(full.device))
    try:
        yield
    finally:
        _restore(embedding)
        if hasattr(net, "optimizer_"):
            _hand_over(net.optimizer_, rows, full)


def _large_table(model: Any) -> nn.Embedding | None:
    """What token ids are looked up in, if that is a large table and no more."""
    try:
        embedding = model.backbone.get_input_embeddings()
    except NotImplementedError:
        return None
    suits = (
        isinstance(embedding, nn.Embedding)
        and "weight" in embedding._parameters  # else it is computed from others
        and len(embedding.weight) >= _MIN_ROWS
        and "forward" not in vars(embedding)  # else ours would not be called
        and not (embedding.sparse or embedding.scale_grad_by_freq or embedding.max_norm)
    )
    return embedding if suits else None


def _objection(net: Any, weight: Tensor, n_rows: int) -> str:
    """Why all rows have to be trained, or might as well be; empty if they need not."""
    if not weight.requires_grad:
        return "the input embedding is frozen"
    users = [m for m in net.module.modules() for p in m._parameters.values() if p is weight]
    if len(users) > 1:
        return "another part of the model shares the input embedding"
    if n_rows > _MAX_SHARE * len(weight):
        return f"{n_rows} of {len(weight)} tokens occur, which would save little"
    optimizer = net.optimizer(net.module)
    if not leaves_unseen_rows_alone(optimizer):
        return f"{type(optimizer).__name__} also changes tokens that do not occur"
    return ""


class Table(NamedTuple):
    """All rows of a table of which some are trained elsewhere.

    Parameters
    ----------
    full : Parameter of shape (num_embeddings, embedding_dim)
        All rows as they were before training.
    ids : LongTensor of shape (n_rows,)
        The rows that are trained.
    places : LongTensor of shape (num_embeddings,)
        Where each row stands in the small table; a row that is not trained, at the witness.
    padding : int or None
        Where the row of the padding token stands there, if it has no gradient.
    witness : Tensor of shape (embedding_dim,)
        The last row of the small table as it was before training.
    """

    full: nn.Parameter
    ids: Tensor
    places: Tensor
    padding: int | None
    witness: Tensor


class CompactEmbedding(nn.Embedding):
    """An embedding whose parameter holds only the rows that are trained, and the witness.

    Whoever looks from outside sees the ordinary one: in ``weight``, ``state_dict``, copies and
    pickles.
    """

    _table: Table

    def forward(self, input: Tensor) -> Tensor:
        """Rows of the moment; those that are not trained take no gradient."""
        table = self._table
        places = table.places[input]
        trained = F.embedding(places, self._rows, table.padding)
        others = F.embedding(input, table.full.detach()) * self._decay()
        return torch.where((places < len(table.ids)).unsqueeze(-1), trained, others)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """All rows of the moment."""
        others = self._table.full.detach() * self._decay()
        return others.index_copy(0, self._table.ids, self._rows[:-1])

    @property
    def _rows(self) -> Any:
        return self._parameters["weight"]

    def _decay(self) -> Tensor:
        """Factor on rows that are not trained, up to now."""
        now, before = self._rows[-1].detach(), self._table.witness
        precision = torch.promote_types(now.dtype, torch.float32)
        # Columns differ in size and so in how each step was rounded: the mean evens it out.
        return (now.to(precision) / before.to(precision)).mean()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight if keep_vars else self.weight.detach()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        name, table = f"{prefix}weight", self._table
        given = state_dict.get(name)
        if given is not None and given.shape == table.full.shape:
            with torch.no_grad():
                table.full.copy_(given)
            state_dict = {**state_dict, name: _small(table.full, table.ids, table.witness)}
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __reduce_ex__(self, protocol: Any) -> Any:
        full = nn.Parameter(self.weight.detach(), requires_grad=self._rows.requires_grad)
        state = {name: value for name, value in vars(self).items() if name != "_table"}
        state["_parameters"] = {**self._parameters, "weight": full}
        return object.__new__, (_ordinary_class(self),), state


def _small(full: Tensor, ids: Tensor, witness: Tensor) -> Tensor:
    return torch.cat([full.detach()[ids], witness.unsqueeze(0)])


def _compact(embedding: nn.Embedding, ids: Tensor) -> nn.Parameter:
    """Make an ordinary embedding a compact one; its new parameter is returned."""
    full, ordinary = embedding._parameters["weight"], type(embedding)
    assert full is not None
    n_rows, width = full.shape
    witness = (1 + torch.arange(width, device=full.device) / width).to(full.dtype)
    places = torch.full((n_rows,), len(ids), device=full.device)
    places[ids] = torch.arange(len(ids), device=full.device)
    padding = embedding.padding_idx
    if padding is not None:
        padding = int(places[padding])
    rows = nn.Parameter(_small(full, ids, witness))
    embedding._table = Table(full, ids, places, padding, witness)  # type: ignore[assignment]
    embedding._parameters["weight"] = rows
    # Behind the embedding's own class, whose scaling then goes around our lookup.
    bases = (CompactEmbedding,) if ordinary is nn.Embedding else (ordinary, CompactEmbedding)
    embedding.__class__ = type(f"Compact{ordinary.__name__}", bases, {})
    return rows


def _restore(embedding: Any) -> None:
    """Make a compact embedding the ordinary one again, with all rows of the moment."""
    table, rows = embedding._table, embedding._rows
    with torch.no_grad():
        table.full.mul_(embedding._decay())
        table.full[table.ids] = rows[:-1]
    table.full.requires_grad_(rows.requires_grad)
    embedding.__class__ = _ordinary_class(embedding)
    embedding._parameters["weight"] = table.full
    del embedding._table


def _ordinary_class(embedding: nn.Embedding) -> type[nn.Embedding]:
    first = type(embedding).__bases__[0]
    return nn.Embedding if first is CompactEmbedding else first


def _hand_over(optimizer: Any, rows: Tensor, full: Tensor) -> None:
    """Let an optimizer go on with all rows; their moments start anew."""
    for group in optimizer.param_groups:
        group["params"] = [full if p is rows else p for p in group["params"]]
    optimizer.state.pop(rows, None)
