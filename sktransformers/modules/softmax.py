r"""Output layers for very many classes, and the most probable of them.

A layer here gives log-probabilities of all classes where `nn.Linear` gives logits, so that
whatever reads logits reads these as well: their softmax are the probabilities. Training asks
for the log-probability of one class a row (``log_likelihood``), which costs much less.

All decisions are affine in the vector. Of several vectors a row (a pair in both orders) the mean
of the vectors has the mean of the logits of every decision, as with a linear layer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MOST_LOGITS = 2**23  # held at once where the best of each row are looked for


class Deferred(NamedTuple):
    """What the last layer would read, and the layer, for a loss that needs few of its outputs.

    Parameters
    ----------
    vectors : Tensor of shape (n, in_features)
    out : nn.Module
        The last layer of a head.
    """

    vectors: Tensor
    out: Any


class AdaptiveSoftmax(nn.Module):
    r"""Clusters of classes by frequency: the rarer, the fewer dimensions.

    Grave et al. 2017 (arXiv:1609.04309), on torch's ``AdaptiveLogSoftmaxWithLoss``. With the
    frequent classes and the clusters :math:`C_1, C_2, ...` as the outcomes of one softmax,

    .. math::

        p(c) = softmax(W h + b)_c, \qquad
        p(c) = softmax(W h + b)_{C_i} \, softmax(U_i P_i h)_c \quad (c \in C_i),

    where :math:`P_i` projects to :math:`d / v^i` dimensions.

    Parameters
    ----------
    in_features : int
        Width d of the vectors.
    order : sequence of int
        All class positions, from the most to the least frequent.
    cutoffs : sequence of int
        Places in that order at which clusters begin.
    div_value : float
        v above.

    Raises
    ------
    ValueError
        If a cluster is left without any dimension.
    """

    rank: Tensor

    def __init__(
        self, in_features: int, order: Sequence[int], cutoffs: Sequence[int], div_value: float
    ):
        super().__init__()
        if in_features < div_value ** len(cutoffs):
            raise ValueError(
                f"AdaptiveSoftmax(div_value={div_value}) leaves nothing of vectors of width "
                f"{in_features} for cluster {len(cutoffs)}: take fewer cutoffs or a smaller "
                f"div_value."
            )
        self.layer = nn.AdaptiveLogSoftmaxWithLoss(
            in_features, len(order), list(cutoffs), div_value, head_bias=True
        )
        rank = [0] * len(order)
        for place, position in enumerate(order):
            rank[position] = place
        self.register_buffer("rank", torch.tensor(rank))

    def forward(self, vectors: Tensor) -> Tensor:
        """Log-probabilities of shape (n, n_classes), in float32 at least."""
        vectors = precise(vectors)
        head = self._head(vectors)
        first = self.layer.shortlist_size
        tails = [
            head[:, first + i, None] + self._tail(i, vectors) for i in range(self.layer.n_clusters)
        ]
        return torch.cat([head[:, :first], *tails], dim=1)[:, self.rank]

    def log_likelihood(self, vectors: Tensor, targets: Tensor) -> Tensor:
        """Log-probability of one class a row, of shape (n,)."""
        vectors, ranks = precise(vectors), self.rank[targets]
        first = self.layer.shortlist_size
        bounds = torch.tensor(self.layer.cutoffs, device=ranks.device)
        cluster = torch.bucketize(ranks, bounds, right=True)  # 0 in the head
        outcome = torch.where(cluster > 0, first + cluster - 1, ranks)
        found = self._head(vectors).gather(1, outcome.unsqueeze(1)).squeeze(1)
        for i in range(self.layer.n_clusters):
            rows = (cluster == i + 1).nonzero().squeeze(1)
            if len(rows):
                inside = self._tail(i, vectors[rows])
                place = (ranks[rows] - bounds[i]).unsqueeze(1)
                found = found.index_add(0, rows, inside.gather(1, place).squeeze(1))
        return found

    def best(self, vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As `best` of all log-probabilities.

        No class is more probable than its cluster: clusters below the k best classes so far are
        not looked into.
        """
        vectors = precise(vectors)
        head = self._head(vectors)
        first, cutoffs = self.layer.shortlist_size, self.layer.cutoffs
        classes = self.rank.argsort()
        values = head.new_full((len(vectors), k), -torch.inf)
        found = torch.full_like(values, len(classes), dtype=torch.long)
        values, found = _joined(values, found, head[:, :first], classes[:first])
        for i in range(self.layer.n_clusters):
            whole = head[:, first + i]
            rows = (~(whole < values[:, -1])).nonzero().squeeze(1)
            if len(rows):
                inside = whole[rows, None] + self._tail(i, vectors[rows])
                some = classes[cutoffs[i] : cutoffs[i + 1]]
                values[rows], found[rows] = _joined(values[rows], found[rows], inside, some)
        return values, found

    @torch.no_grad()
    def rescale(self, weight: float, bias: float) -> None:
        """Multiply the logits of all decisions, in what depends on the vector and what does not."""
        self.layer.head.weight.mul_(weight)
        self.layer.head.bias.mul_(bias)
        tail: Any
        for tail in self.layer.tail:
            tail[1].weight.mul_(weight)

    def _head(self, vectors: Tensor) -> Tensor:
        return _linear(self.layer.head, vectors).log_softmax(dim=1)

    def _tail(self, i: int, vectors: Tensor) -> Tensor:
        tail: Any = self.layer.tail[i]
        return _linear(tail[1], _linear(tail[0], vectors)).log_softmax(dim=1)


class TreeSoftmax(nn.Module):
    r"""A binary tree with the classes as its leaves, and a logistic regression at every node.

    .. math:: p(c) = \prod_{n \in path(c)} \sigma(s_{n,c} (w_n \cdot h + b_n))

    over the inner nodes above the class c, with :math:`s_{n,c} = 1` where the path goes left
    and -1 where it goes right (Morin and Bengio 2005; Mikolov et al. 2013, arXiv:1310.4546,
    equation 3, there without biases).

    Parameters
    ----------
    in_features : int
        Width of the vectors.
    children : sequence of int
        Left and right child of each inner node, one pair after the other: i stands for inner
        node i, -1 - c for class c. Node 0 is the root, and numbers rise from level to level
        and within a level from left to right.
    """

    path: Tensor
    sign: Tensor
    inner: Tensor
    leaf: Tensor

    def __init__(self, in_features: int, children: Sequence[int]):
        super().__init__()
        n_nodes = len(children) // 2
        self.decisions = nn.Linear(in_features, n_nodes)
        ways: list[list[int]] = [[]]  # to each inner node: edges, two a node
        paths: list[list[int]] = [[] for _ in range(n_nodes + 1)]
        leaf = [0] * (n_nodes + 1)
        inner = []
        for edge, child in enumerate(children):
            way = [*ways[edge // 2], edge]
            if child < 0:
                paths[-1 - child], leaf[-1 - child] = way, edge
            else:
                ways.append(way)
                inner.append(edge)
        depth = max(map(len, paths))
        rows = [way + [-1] * (depth - len(way)) for way in paths]
        self.register_buffer("path", torch.tensor([[max(e, 0) // 2 for e in way] for way in rows]))
        signs = [[0 if e < 0 else 1 - 2 * (e % 2) for e in way] for way in rows]
        self.register_buffer("sign", torch.tensor(signs, dtype=torch.int8))
        self.register_buffer("inner", torch.tensor(inner, dtype=torch.long))
        self.register_buffer("leaf", torch.tensor(leaf))
        # Where levels begin: each holds the inner children of the one before.
        self._levels = [0, 1]
        while self._levels[-1] > self._levels[-2]:
            begin, end = self._levels[-2:]
            self._levels.append(end + sum(child >= 0 for child in children[2 * begin : 2 * end]))

    def forward(self, vectors: Tensor) -> Tensor:
        """Log-probabilities of shape (n, n_classes), in float32 at least."""
        logits = _linear(self.decisions, precise(vectors))
        both = torch.stack([F.logsigmoid(logits), F.logsigmoid(-logits)], dim=2).flatten(1)
        reached, edges = logits.new_zeros(len(logits), 1), []
        for begin, end, last in zip(self._levels, self._levels[1:], self._levels[2:]):
            gone = reached.repeat_interleave(2, dim=1) + both[:, 2 * begin : 2 * end]
            edges.append(gone)
            # Node i hangs on the edge inner[i - 1]: the root on none.
            reached = gone[:, self.inner[end - 1 : last - 1] - 2 * begin]
        return torch.cat(edges, dim=1)[:, self.leaf]

    def log_likelihood(self, vectors: Tensor, targets: Tensor) -> Tensor:
        """Log-probability of one class a row, of shape (n,)."""
        vectors, nodes, sign = precise(vectors), self.path[targets], self.sign[targets]
        weight = F.embedding(nodes, self.decisions.weight).to(vectors.dtype)
        bias = self.decisions.bias[nodes].to(vectors.dtype)
        logits = torch.bmm(weight, vectors.unsqueeze(2)).squeeze(2) + bias
        return F.logsigmoid(sign * logits).masked_fill(sign == 0, 0.0).sum(dim=1)

    @torch.no_grad()
    def rescale(self, weight: float, bias: float) -> None:
        """Multiply the logits of all decisions, in what depends on the vector and what does not."""
        self.decisions.weight.mul_(weight)
        self.decisions.bias.mul_(bias)


def output_layer(
    in_features: int, n_outputs: int, softmax: dict[str, Any] | None, bias: bool = True
) -> Any:
    """The last layer of a head.

    Parameters
    ----------
    in_features, n_outputs : int
        Widths.
    softmax : dict or None
        ``kind``, "adaptive" or "tree", and the layer's parameters; None is a linear layer.
    bias : bool, default=True
        Whether a linear layer has one.
    """
    if softmax is None:
        return nn.Linear(in_features, n_outputs, bias)
    kinds = {"adaptive": AdaptiveSoftmax, "tree": TreeSoftmax}
    given = dict(softmax)
    return kinds[given.pop("kind")](in_features, **given)


def most_probable(out: Any, vectors: Tensor, n_outputs: int, k: int) -> Tensor:
    """The k most probable classes of each row, of equals the first, in the order of probability.

    Parameters
    ----------
    out : nn.Module
        Layer that gives logits of vectors.
    vectors : Tensor of shape (n, in_features)
        They go through in parts, of some 10 million logits.
    n_outputs : int
        Number of logits a row.
    k : int

    Returns
    -------
    found : Tensor of shape (n, 2 * k)
        Log-probabilities, then positions of the classes: as floats, of which float32 has all up
        to 2 ** 24.
    """
    parts = []
    for part in vectors.split(max(1, _MOST_LOGITS // n_outputs)):
        if isinstance(out, AdaptiveSoftmax):
            values, found = out.best(part, k)
        else:
            logits = precise(out(part))
            values, found = best(logits, torch.arange(n_outputs, device=logits.device), k)
            values = values - logits.logsumexp(dim=1, keepdim=True)
        parts.append(torch.cat([values, found.to(values.dtype)], dim=1))
    return torch.cat(parts)


def best(values: Tensor, classes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values of each row, falling, and their classes; of equals the smaller class.

    Parameters
    ----------
    values : Tensor of shape (n, m)
    classes : LongTensor of shape (m,) or (n, m)
    k : int
        At most m.
    """
    classes = classes.expand_as(values)
    top, places = values.topk(k, dim=1)
    found = classes.gather(1, places)
    # topk takes any of those that equal the last: where it left some out, all are sorted.
    last = top[:, -1:]
    rows = ((values == last).sum(dim=1) > (top == last).sum(dim=1)).nonzero().squeeze(1)
    if len(rows):
        some_top, some_found = _sorted(values[rows], classes[rows])
        top[rows], found[rows] = some_top[:, :k], some_found[:, :k]
    return _sorted(top, found)


def precise(outputs: Tensor) -> Tensor:
    """Outputs in float32 at least."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def _sorted(values: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    classes, order = classes.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, classes.gather(1, order)


def _joined(values: Tensor, found: Tensor, more: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The best of the best so far and of some more."""
    both = torch.cat([values, more], dim=1)
    return best(both, torch.cat([found, classes.expand_as(more)], dim=1), values.shape[1])


def _linear(layer: nn.Linear, vectors: Tensor) -> Tensor:
    """Outputs in the precision of the vectors."""
    bias = None if layer.bias is None else layer.bias.to(vectors.dtype)
    with torch.autocast(vectors.device.type, enabled=False):
        return F.linear(vectors, layer.weight.to(vectors.dtype), bias)
