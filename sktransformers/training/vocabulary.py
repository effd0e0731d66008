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

import copyreg
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Small tables, and those of which most rows occur, gain nothing.
_MIN_ROWS = 4096
_MAX_SHARE = 0.5
# They compute each entry of a weight from that entry and its gradients alone, and leave it where
# it is while all of its gradients are zero.
_ENTRY_WISE = {
    torch.optim.Adagrad,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.SGD,
}


def leaves_unseen_rows_alone(optimizer: torch.optim.Optimizer) -> bool:
    """Whether rows without a gradient are at most scaled, all by the same factor.

    Decay that goes through the gradients (L2) enters Adam's moments and the gradients' norm.
    """
    return type(optimizer) in _ENTRY_WISE and all(
        group.get("decoupled_weight_decay", False) or not group["weight_decay"]
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
    embedding = _input_embedding(net.module)
    objection = "it is no plain table"
    if embedding is not None:
        ids = np.union1d(ids, [i for i in (net.pad_id, embedding.padding_idx) if i is not None])
        ids = ids[ids < embedding.num_embeddings].astype(np.int64)
        objection = _objection(net, embedding, len(ids))
    if verbose:
        print(
            f"All rows of the input embedding are trained: {objection}."
            if embedding is None or objection
            else f"{len(ids)} of {embedding.num_embeddings} rows of the input embedding occur and "
            f"are trained."
        )
    if embedding is None or objection:
        yield
        return
    original = type(embedding)
    _compact(embedding, torch.from_numpy(ids).to(embedding.weight.device))
    rows = embedding._parameters["weight"]
    try:
        yield
    finally:
        _restore(embedding, original)
        if hasattr(net, "optimizer_"):
            _hand_over(net.optimizer_, rows, embedding.weight)


def _input_embedding(model: Any) -> nn.Embedding | None:
    """The table that token ids are looked up in, if it is no more than that."""
    try:
        embedding = model.backbone.get_input_embeddings()
    except NotImplementedError:
        return None
    plain = (
        isinstance(embedding, nn.Embedding)
        and "weight" in embedding._parameters  # else it is computed from others
        and "forward" not in vars(embedding)  # else ours would not be called
        and not (embedding.sparse or embedding.scale_grad_by_freq or embedding.max_norm)
    )
    return embedding if plain else None


def _objection(net: Any, embedding: nn.Embedding, n_rows: int) -> str:
    """Why all rows have to be trained; empty if they need not."""
    weight = embedding.weight
    if not weight.requires_grad:
        return "it is frozen"
    owners = [m for m in net.module.modules() for p in m._parameters.values() if p is weight]
    if len(owners) > 1:
        return "other parts of the model share its weights"
    if len(weight) < _MIN_ROWS or n_rows > _MAX_SHARE * len(weight):
        return f"{n_rows} of {len(weight)} occur"
    optimizer = net.optimizer(net.module)
    if not leaves_unseen_rows_alone(optimizer):
        return f"{type(optimizer).__name__} would change rows that do not occur"
    return ""


class Table(NamedTuple):
    """The whole of a table while some of its rows are trained elsewhere.

    Parameters
    ----------
    full : Parameter of shape (num_embeddings, embedding_dim)
        All rows as they were before training.
    ids : LongTensor of shape (n_rows,)
        Rows that are trained.
    places : LongTensor of shape (num_embeddings,)
        Where each row stands in the small table; rows that are not trained, at the witness.
    witness : Tensor of shape (embedding_dim,)
        The last row of the small table as it was before training.
    """

    full: nn.Parameter
    ids: Tensor
    places: Tensor
    witness: Tensor


class CompactEmbedding(nn.Embedding):
    """An embedding whose parameter holds only the rows that are trained, and the witness.

    To everybody else it is the ordinary one: so are its ``weight``, its entry in the
    ``state_dict``, its copies and its pickles.
    """

    _table: Table

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name in torch)
        """Rows of the moment; those that are not trained have no gradient."""
        table, padding = self._table, self.padding_idx
        places = table.places[input]
        trained = F.embedding(
            places,
            self._parameters["weight"],
            None if padding is None else int(table.places[padding]),
        )
        others = F.embedding(input, table.full.detach()) * self._decay()
        return torch.where((places < len(table.ids)).unsqueeze(-1), trained, others)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """All rows as they are at the moment."""
        table, trained = self._table, self._parameters["weight"]
        return (table.full.detach() * self._decay()).index_copy(0, table.ids, trained[:-1])

    def _decay(self) -> Tensor:
        # The mean over columns of different size evens out how single steps are rounded.
        now, before = self._parameters["weight"][-1].detach(), self._table.witness
        precision = torch.promote_types(now.dtype, torch.float32)
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
            trained = torch.cat([table.full[table.ids], table.witness.unsqueeze(0)])
            state_dict = {**state_dict, name: trained.detach()}
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __reduce_ex__(self, protocol: Any) -> Any:
        state = {key: value for key, value in vars(self).items() if key != "_table"}
        trained = self._parameters["weight"]
        full = nn.Parameter(self.weight.detach(), requires_grad=trained.requires_grad)
        state["_parameters"] = {**self._parameters, "weight": full}
        return copyreg.__newobj__, (self._original(),), state  # type: ignore[attr-defined]

    @classmethod
    def _original(cls) -> type[nn.Embedding]:
        return nn.Embedding if cls is CompactEmbedding else cls.__bases__[0]


def _compact(embedding: nn.Embedding, ids: Tensor) -> None:
    """Make an ordinary embedding a compact one."""
    full, original = embedding._parameters["weight"], type(embedding)
    assert full is not None
    witness = 1 + torch.arange(full.shape[1], device=full.device, dtype=torch.float32)
    witness = (1 + witness / full.shape[1]).to(full.dtype)
    places = torch.full((len(full),), len(ids), device=full.device)
    places[ids] = torch.arange(len(ids), device=full.device)
    rows = torch.cat([full.detach()[ids], witness.unsqueeze(0)])
    embedding._parameters["weight"] = nn.Parameter(rows)
    embedding._table = Table(nn.Parameter(full), ids, places, witness)
