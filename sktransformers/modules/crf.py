r"""Linear-chain conditional random field: tags of a sentence scored as one path.

A path :math:`y_1 \dots y_T` over the K tags has the score

.. math::

    s(y) = start_{y_1} + \sum_t e_{t, y_t} + \sum_t transitions_{y_t, y_{t+1}} + end_{y_T}

and the probability :math:`\exp(s(y)) / Z`, Z the sum over all paths (Lafferty, McCallum and
Pereira 2001; on top of a neural network: Lample et al. 2016, arXiv:1603.01360).

The sums run over time, and a step over time costs the same handful of calls whether it moves
one number or a thousand. Hence one loop for both directions of forward-backward, over
sentences in order of length so that no step computes padding, and in float64, which costs
what float32 does at these sizes and needs no rescaling: scores of 1e4 in sentences of 1e5
words still leave seven digits behind the point. For the likelihood of short sentences even
these calls are too many: they are padded after all, and summed without logarithms.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# What a forbidden step scores. Large enough that no path with such a step beats one without,
# so that its probability is exactly 0; small enough that float64 still tells apart the rest of
# the score: in a sentence without any legal path, the paths with the fewest such steps win.
FORBIDDEN = -1e10

_ROOM = 300.0  # float64 holds exp(-2 * _ROOM) to exp(2 * _ROOM)
_SMALLEST = 1e-200  # far from where float64 loses digits
_SHORT = 32  # words of sentences that are laid side by side
_CHUNK = 2**20  # numbers held at once where memory would be words times squared tags


class CRFOutput(NamedTuple):
    """Scores of everything a path consists of, constraints included.

    Parameters
    ----------
    emissions : Tensor of shape (n_words, n_tags)
        Score of each tag at each word, sentence after sentence.
    lengths : LongTensor of shape (n_sentences,)
        Words of each sentence; a sentence may be empty.
    start : Tensor of shape (n_tags,)
        Score of each tag at the first word.
    transitions : Tensor of shape (n_tags, n_tags)
        Score of the tag of the column behind the tag of the row.
    end : Tensor of shape (n_tags,)
        Score of each tag at the last word.
    """

    emissions: Tensor
    lengths: Tensor
    start: Tensor
    transitions: Tensor
    end: Tensor


class LinearChainCRF(nn.Module):
    """Learned scores of first, neighbouring and last tags; all zero at the start.

    Parameters
    ----------
    n_tags : int
    forbidden_start, forbidden, forbidden_end : array-like of bool, default=None
        Of shapes (n_tags,), (n_tags, n_tags), from row to column, and (n_tags,): True where
        a tag cannot come first, behind another, or last. None forbids nothing.
    """

    forbidden_start: Tensor
    forbidden: Tensor
    forbidden_end: Tensor

    def __init__(
        self,
        n_tags: int,
        forbidden_start: Any = None,
        forbidden: Any = None,
        forbidden_end: Any = None,
    ):
        super().__init__()
        self.start = nn.Parameter(torch.zeros(n_tags))
        self.transitions = nn.Parameter(torch.zeros(n_tags, n_tags))
        self.end = nn.Parameter(torch.zeros(n_tags))
        self.register_buffer("forbidden_start", torch.zeros(n_tags, dtype=torch.bool))
        self.register_buffer("forbidden", torch.zeros(n_tags, n_tags, dtype=torch.bool))
        self.register_buffer("forbidden_end", torch.zeros(n_tags, dtype=torch.bool))
        self.constrain(forbidden_start, forbidden, forbidden_end)

    @torch.no_grad()
    def constrain(
        self, forbidden_start: Any = None, forbidden: Any = None, forbidden_end: Any = None
    ) -> None:
        """Replace the constraints; parameters as those of the class."""
        given = (forbidden_start, forbidden, forbidden_end)
        for buffer, mask in zip((self.forbidden_start, self.forbidden, self.forbidden_end), given):
            mask = torch.as_tensor(False if mask is None else mask, dtype=torch.bool)
            if mask.ndim and mask.shape != buffer.shape:
                raise ValueError(
                    f"A mask of shape {tuple(buffer.shape)} was expected, got {tuple(mask.shape)}."
                )
            buffer.copy_(mask)

    def forward(self, emissions: Tensor, lengths: Tensor) -> CRFOutput:
        """Scores in float32 or, for emissions in it, in float64.

        Parameters
        ----------
        emissions : Tensor of shape (n_words, n_tags)
        lengths : LongTensor of shape (n_sentences,)
        """
        dtype = torch.promote_types(emissions.dtype, torch.float32)
        return CRFOutput(
            emissions.to(dtype),
            lengths,
            self.start.to(dtype).masked_fill(self.forbidden_start, FORBIDDEN),
            self.transitions.to(dtype).masked_fill(self.forbidden, FORBIDDEN),
            self.end.to(dtype).masked_fill(self.forbidden_end, FORBIDDEN),
        )


def log_likelihood(output: CRFOutput, tags: Tensor) -> Tensor:
    """Log-probability of each sentence's path, of shape (n_sentences,); 0 for no words.

    Parameters
    ----------
    output : CRFOutput
    tags : LongTensor of shape (n_words,)
    """
    return _log_likelihood(output, tags)


def log_partition(output: CRFOutput) -> Tensor:
    """Logarithm of the sum over all paths, of shape (n_sentences,); 0 for no words."""
    return -_log_likelihood(output, None)


def path_score(output: CRFOutput, tags: Tensor) -> Tensor:
    """Score of each sentence's path, of shape (n_sentences,); about -1e10 if it is illegal.

    Parameters
    ----------
    output : CRFOutput
    tags : LongTensor of shape (n_words,)
    """
    precise, layout = _prepare(output)
    return _path_score(precise, tags.to(precise.emissions.device), layout).to(output.emissions)


@torch.no_grad()
def viterbi(output: CRFOutput) -> Tensor:
    """Tags of the best path of each sentence, of shape (n_words,) (Viterbi 1967)."""
    precise, layout = _prepare(output)
    emissions, _, start, transitions, end = precise
    tags = torch.zeros(len(emissions), dtype=torch.long, device=emissions.device)
    if layout.steps:
        best = emissions[layout.forwards]
        first, *rest = best.split(layout.steps)
        first += start
        reached, origins = first, []
        for score in rest:
            found, origin = (reached[: len(score)].unsqueeze(2) + transitions).max(dim=1)
            reached = score.add_(found)
            origins.append(origin)
        ended = torch.empty_like(best)
        ended[layout.forwards] = best
        tag = (ended[layout.last] + end).argmax(dim=1)
        path = [tag[: layout.steps[-1]]]
        for origin, size in zip(reversed(origins), reversed(layout.steps[:-1])):
            before = origin.gather(1, path[-1].unsqueeze(1)).squeeze(1)
            if len(before) < size:  # sentences that end here stand behind those that go on
                before = torch.cat([before, tag[len(before) : size]])
            path.append(before)
        tags[layout.forwards] = torch.cat(path[::-1])
    return tags.to(output.emissions.device)


@torch.no_grad()
def marginals(output: CRFOutput) -> Tensor:
    """Probability of each tag at each word over all paths, of shape (n_words, n_tags).

    It has no gradients.
    """
    precise, layout = _prepare(output)
    ahead, behind = _sweep(precise, layout, both=True)
    return (ahead + behind - precise.emissions).softmax(dim=1).to(output.emissions)


@torch.no_grad()
def legal(scores: CRFOutput | LinearChainCRF, tags: Tensor, lengths: Tensor) -> Tensor:
    """Which sentences' paths hold nothing forbidden, of shape (n_sentences,).

    Parameters
    ----------
    scores : CRFOutput or LinearChainCRF
        Whose constraints are meant.
    tags : LongTensor of shape (n_words,)
    lengths : LongTensor of shape (n_sentences,)
    """
    if isinstance(scores, LinearChainCRF):
        masks = scores.forbidden_start, scores.forbidden, scores.forbidden_end
    else:
        parts = scores.start, scores.transitions, scores.end
        masks = tuple(part <= FORBIDDEN / 2 for part in parts)  # type: ignore[assignment]
    start, transitions, end = (mask.to(tags.device, torch.float32) for mask in masks)
    layout = _layout(lengths.cpu(), tags.device)
    nothing = start.new_zeros(len(tags), len(start))
    return _path_score(CRFOutput(nothing, lengths, start, transitions, end), tags, layout) == 0


class _Layout(NamedTuple):
    """Where words stand, in their own order and in the order in which they are computed.

    Computed are first all first words, those of longer sentences before those of shorter
    ones, then all second words, and so on: sentences still going are always the first few.

    Parameters
    ----------
    n_sentences : int
    steps : list of int
        Sentences still going at each step.
    forwards, backwards : LongTensor of shape (n_words,)
        The word computed at each place, for reading in either direction.
    first, last : LongTensor of shape (n_filled,)
        First and last words of the sentences that have any, longest sentence first.
    filled : LongTensor of shape (n_filled,)
        These sentences.
    sentence : LongTensor of shape (n_words,)
        Sentence of each word.
    inner : LongTensor of shape (n_words - n_filled,)
        Words with another one behind them.
    """

    n_sentences: int
    steps: list[int]
    forwards: Tensor
    backwards: Tensor
    first: Tensor
    last: Tensor
    filled: Tensor
    sentence: Tensor
    inner: Tensor


def _layout(lengths: Tensor, device: torch.device) -> _Layout:
    """Lay out sentences of these lengths, which are on the CPU."""
    n_words = int(lengths.sum())
    order = lengths.argsort(descending=True, stable=True)
    filled = order[: int((lengths > 0).sum())]
    last = (lengths.cumsum(0) - 1)[filled]
    first = last - lengths[filled] + 1
    # Sentences longer than 0, 1, ...: all those not ended before.
    steps = len(filled) - lengths[filled].bincount().cumsum(0)[:-1]
    step = torch.arange(len(steps)).repeat_interleave(steps, output_size=n_words)
    rank = torch.arange(n_words) - (steps.cumsum(0) - steps)[step]
    forwards = first[rank] + step
    tensors = (
        forwards,
        last[rank] - step,
        first,
        last,
        filled,
        torch.arange(len(lengths)).repeat_interleave(lengths, output_size=n_words),
        forwards[len(filled) :] - 1,  # each has one computed a step later
    )
    return _Layout(len(lengths), steps.tolist(), *(t.to(device) for t in tensors))


def _prepare(output: CRFOutput) -> tuple[CRFOutput, _Layout]:
    """Scores in float64, on the CPU where a device has none, and the layout of their words."""
    device = output.emissions.device
    if device.type == "mps":
        device = torch.device("cpu")
    emissions, lengths, *rest = output
    lengths = lengths.cpu()
    layout = _layout(lengths, device)
    _check_words(emissions, len(layout.sentence))
    parts = [part.to(device, torch.float64) for part in (emissions, *rest)]
    return CRFOutput(parts[0], lengths, *parts[1:]), layout


def _check_words(emissions: Tensor, n_words: int) -> None:
    if len(emissions) != n_words:
        raise ValueError(
            f"Sentences of {n_words} words in all came with the emissions of "
            f"{len(emissions)} words."
        )


def _path_score(output: CRFOutput, tags: Tensor, layout: _Layout) -> Tensor:
    emissions, _, start, transitions, end = output
    inner = layout.inner
    score = emissions.new_zeros(layout.n_sentences)
    score = score.index_add(0, layout.sentence, emissions.gather(1, tags.unsqueeze(1)).squeeze(1))
    score = score.index_add(0, layout.sentence[inner], transitions[tags[inner], tags[inner + 1]])
    return score.index_add(0, layout.filled, start[tags[layout.first]] + end[tags[layout.last]])


def _sweep(output: CRFOutput, layout: _Layout, both: bool) -> tuple[Tensor, Tensor]:
    r"""Sums over the paths up to each word, and over those from it on, in logarithms.

    :math:`a_t = e_t + \log \sum_i \exp(a_{t-1, i} + transitions_{i, \cdot})` and, the same
    with sentences and transitions turned round, :math:`b_t`. Both hold the word's emission.
    Without ``both``, only the first are computed, and given twice.
    """
    emissions, _, start, transitions, end = output
    words, first, move = layout.forwards.unsqueeze(1), start.unsqueeze(0), transitions.unsqueeze(0)
    if both:
        words = torch.stack([layout.forwards, layout.backwards], dim=1)
        first = torch.stack([start, end])
        move = torch.stack([transitions, transitions.T])
    scores = emissions[words]  # (n_words, directions, n_tags)
    scores[: len(layout.filled)] += first
    if len(layout.steps) > 1:
        sums = _fast_sums(scores, move, layout.steps)
        scores = _exact_sums(scores, move, layout.steps) if sums is None else sums
    found = torch.empty_like(scores)
    found[words, torch.arange(words.shape[1], device=words.device)] = scores
    return found[:, 0], found[:, -1]


def _exact_sums(scores: Tensor, move: Tensor, steps: list[int]) -> Tensor:
    """`_sweep` with an exponential for each pair of tags; overwrites the scores."""
    reached, *rest = scores.split(steps)
    for score in rest:
        reached = score.add_((reached[: len(score)].unsqueeze(3) + move).logsumexp(dim=2))
    return scores


def _fast_sums(scores: Tensor, move: Tensor, steps: list[int]) -> Tensor | None:
    r"""`_sweep` with an exponential for each tag and a matrix product, or None.

    A sum over the previous tags holds :math:`\exp(a_i - \max a) \exp(transitions_{ij})`.
    Factors below exp(-2 * _ROOM) may be lost; next to a sum that is large enough, with nothing
    large to multiply them, they are nothing. None says that a sum was not.
    """
    n_directions, n_tags, _ = move.shape
    factors = torch.block_diag(*move.exp())  # one product for both directions
    scores = scores.clone()
    moved = torch.ones_like(scores).view(-1, n_directions * n_tags)
    reached, *rest = scores.split(steps)
    for score, sums in zip(rest, moved.split(steps)[1:]):
        reached = reached[: len(score)]
        top = reached.amax(dim=2, keepdim=True)
        torch.mm((reached - top).exp_().view(len(score), -1), factors, out=sums)
        reached = score.add_(sums.log().view(score.shape)).add_(top)
    exact = (moved.min() > math.exp(-_ROOM)) & (move.max() < _ROOM)
    return scores if bool(exact) else None


def _log_likelihood(output: CRFOutput, tags: Tensor | None) -> Tensor:
    """Log-probability of the paths or, without tags, minus the logarithm of the sum."""
    emissions, lengths, *rest = output
    if _is_tiny(output):
        return _tiny_likelihood(output, tags)
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in (emissions, *rest))
    short = _short(output, tags, learns)
    found: Tensor
    if short is None:
        found = _LogLikelihood.apply(learns, tags, lengths, emissions, *rest)
    else:
        found = _ShortLikelihood.apply(short, emissions, *rest)
    return found


def _is_tiny(output: CRFOutput) -> bool:
    """Whether all sentences have one word, or all have two, and few paths each."""
    emissions, lengths = output[:2]
    n_sentences, n_tags = len(lengths), len(output.start)
    return (
        len(emissions) in (n_sentences, 2 * n_sentences)
        and 0 < n_sentences * n_tags**2 <= _CHUNK
        and emissions.device.type != "mps"
        and bool((lengths * n_sentences == len(emissions)).all())
    )


def _tiny_likelihood(output: CRFOutput, tags: Tensor | None) -> Tensor:
    """`_log_likelihood` as a softmax over all paths."""
    emissions, lengths, start, transitions, end = output
    n_sentences, n_tags = len(lengths), len(start)
    words = emissions.double().view(n_sentences, -1, n_tags)
    if words.shape[1] == 1:
        nothing = transitions[:0].sum(dim=0)  # that they have a gradient, of 0
        paths = words[:, 0] + (start + end + nothing)
    else:
        before, last = words[:, 0] + start, words[:, 1] + end
        paths = (before.unsqueeze(2) + transitions + last.unsqueeze(1)).flatten(1)
    if tags is None:
        return -paths.logsumexp(dim=1).to(emissions)
    first, *then = tags.to(emissions.device).view(n_sentences, -1).unbind(1)
    path = torch.add(then[0], first, alpha=n_tags) if then else first
    return paths.log_softmax(dim=1).gather(1, path.unsqueeze(1)).squeeze(1).to(emissions)


class _Short(NamedTuple):
    r"""Short sentences side by side, with an edge before the first and behind the last word.

    The edge is a further tag, number 0: start and end are transitions from it and to it, and
    there the shorter sentences stay. Nothing is in logarithms: a path weighs the product of its
    factors, which are 1 or less.

    Parameters
    ----------
    found : Tensor of shape (n_sentences,)
        Log-probability of each path, or minus the logarithm of the sum over all paths.
    total : Tensor of shape (n_sentences, 1)
        Weight of all paths.
    moves : Tensor of shape (1 + n_tags, 1 + n_tags)
        Factors of the transitions.
    ahead, behind : Tensor of shape (1 + length, n_sentences, 1 + n_tags)
        Weight of the paths from the first edge to each word, and from each word to the last;
        the word's own factor is in both.
    follow : Tensor of shape (length, n_sentences, 1 + n_tags)
        Weight of the paths behind each word.
    rows : LongTensor of shape (length, n_sentences)
        Each place's row in the table of all scores: a word, n_words where there is none.
    taken : two LongTensor of shape (1 + 2 * length, n_sentences), or None
        What a path consists of: rows and columns in the table of all scores.
    """

    found: Tensor
    total: Tensor
    moves: Tensor
    ahead: Tensor
    behind: Tensor
    follow: Tensor
    rows: Tensor
    taken: tuple[Tensor, Tensor] | None


@torch.no_grad()
def _short(output: CRFOutput, tags: Tensor | None, learns: bool) -> _Short | None:
    """What the likelihood of short sentences needs; None for others, or if float64 is too small.

    Such sentences cost what calling torch costs, and here are half the calls of `_sweep`.
    """
    emissions, lengths, start, transitions, end = output
    n_words, n_tags = emissions.shape
    sizes = lengths.tolist()
    n_sentences, length = len(sizes), max(sizes, default=0)
    if not 0 < length <= _SHORT or emissions.device.type == "mps":
        return None
    _check_words(emissions, sum(sizes))
    lengths = lengths.to(emissions.device)
    ends = lengths.cumsum(0)
    rows = (ends - lengths) + torch.arange(length, device=ends.device).unsqueeze(1)
    rows.masked_fill_(rows >= ends, n_words)
    # Rows of the table: words, no word, what comes behind the edge and behind each tag.
    table = torch.full(
        (n_words + n_tags + 2, n_tags + 1), -math.inf, dtype=torch.float64, device=ends.device
    )
    table[:n_words, 1:] = emissions
    table[n_words : n_words + 2, 0] = 0.0
    table[n_words + 1, 1:] = start
    table[n_words + 2 :, 1:] = transitions
    table[n_words + 2 :, 0] = end
    high = table.amax(dim=1, keepdim=True)
    highest_move = high[n_words + 1 :].amax()
    high[n_words + 1 :] = highest_move
    factors = (table - high).exp_()
    moves, words = factors[n_words + 1 :], factors[rows]
    ahead, behind = factors.new_zeros(2, length + 1, n_sentences, n_tags + 1).unbind()
    ahead[0, :, 0] = 1.0
    reached, *reaching = ahead.unbind()
    words_in_turn = words.unbind()
    for reach, word in zip(reaching, words_in_turn):
        reached = torch.mm(reached, moves, out=reach).mul_(word)
    total = reached @ moves[:, :1]
    if not float(total.amin()) > _SMALLEST:  # nan is not
        return None
    found = total.log().add_(high[rows].sum(dim=0)).squeeze(1)
    found.add_(highest_move, alpha=length + 1)
    taken = None
    if tags is None:
        found = found.neg_()
    else:
        tags = nn.functional.pad(tags.to(ends.device) + 1, (0, 1))
        path = nn.functional.pad(tags[rows], (0, 0, 1, 1))
        columns = torch.cat([path[1:-1], path[1:]])
        taken = torch.cat([rows, path[:-1] + (n_words + 1)]), columns
        found = table[taken].sum(dim=0).sub_(found).clamp_(max=0.0)  # not 1e-17
    follow = torch.empty_like(words)
    if learns:
        behind[length, :, 0] = 1.0
        *going, goes = behind.unbind()
        back = moves.T
        for into, word, sums in zip(going[::-1], words_in_turn[::-1], follow.unbind()[::-1]):
            goes = torch.mul(torch.mm(goes, back, out=sums), word, out=into)
    return _Short(found, total, moves, ahead, behind, follow, rows, taken)


class _ShortLikelihood(torch.autograd.Function):
    """`_log_likelihood` of short sentences; gradients as in `_LogLikelihood`."""

    @staticmethod
    def forward(
        ctx: Any, short: _Short, emissions: Tensor, start: Tensor, transitions: Tensor, end: Tensor
    ) -> Tensor:
        ctx.short, ctx.like, ctx.n_words = short, emissions.new_empty(0), len(emissions)
        return short.found.to(emissions)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # by create_graph; what follows would pass for a constant
            raise RuntimeError("The likelihood of a CRF has no second derivatives here.")
        _, total, factors, ahead, behind, follow, rows, taken = ctx.short
        n_words, width = ctx.n_words, len(factors)
        weights = grad.to(total).unsqueeze(1)
        shares = ahead * (weights / total).neg_()
        table = total.new_empty(n_words + width + 1, width)  # as that of the scores
        visits = (shares[1:] * follow).view(-1, width)
        table.index_copy_(0, rows.view(-1), visits)
        moves = table[n_words + 1 :]
        torch.mm(shares.view(-1, width).T, behind.view(-1, width), out=moves).mul_(factors)
        if taken is not None:
            table.index_put_(taken, weights.T.expand(taken[0].shape), accumulate=True)
        table = table.to(ctx.like)
        moves = table[n_words + 1 :]
        return None, table[:n_words, 1:], moves[0, 1:], moves[1:, 1:], moves[1:, 0]


class _LogLikelihood(torch.autograd.Function):
    """`_log_likelihood` with its gradient written out: the path minus the expected path.

    Recorded by autograd, the loop over time would have to be run again backwards, in more and
    smaller steps. Both directions at once give the probabilities that the gradient is made of.
    They are not differentiable again: asking for second derivatives (create_graph) is an error.
    """

    @staticmethod
    def forward(
        ctx: Any,
        learns: bool,
        tags: Tensor | None,
        lengths: Tensor,
        emissions: Tensor,
        start: Tensor,
        transitions: Tensor,
        end: Tensor,
    ) -> Tensor:
        output, layout = _prepare(CRFOutput(emissions, lengths, start, transitions, end))
        ahead, behind = _sweep(output, layout, both=learns)
        total = ahead.new_zeros(layout.n_sentences)
        total[layout.filled] = (ahead[layout.last] + output.end).logsumexp(dim=1)
        found = -total
        if tags is not None:
            tags = tags.to(ahead.device)
            found = (found + _path_score(output, tags, layout)).clamp_(max=0.0)  # not 1e-17
        ctx.save_for_backward(tags, ahead, behind, total, output.emissions, output.transitions)
        ctx.layout, ctx.like = layout, emissions.new_empty(0)
        return found.to(emissions)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # by create_graph; what follows would pass for a constant
            raise RuntimeError("The likelihood of a CRF has no second derivatives here.")
        tags, ahead, behind, total, emissions, transitions = ctx.saved_tensors
        layout = ctx.layout
        weights = grad.to(ahead)[layout.sentence]
        moves = _expected_moves(ahead, behind, total, transitions, -weights, layout)
        visits = (ahead + behind).sub_(emissions).softmax(dim=1).mul_(-weights.unsqueeze(1))
        if tags is not None:
            n_tags, inner = len(transitions), layout.inner
            moves.view(-1).index_add_(0, tags[inner] * n_tags + tags[inner + 1], weights[inner])
            places = torch.arange(0, visits.numel(), n_tags, device=tags.device) + tags
            visits.view(-1).index_add_(0, places, weights)
        grads = visits, visits[layout.first].sum(0), moves, visits[layout.last].sum(0)
        return None, None, None, *(found.to(ctx.like) for found in grads)


def _expected_moves(
    ahead: Tensor,
    behind: Tensor,
    total: Tensor,
    transitions: Tensor,
    weights: Tensor,
    layout: _Layout,
) -> Tensor:
    """Expected number of each transition over all paths, words weighted, of shape (K, K)."""
    inner, behind = layout.inner, behind[layout.inner + 1]
    weights = weights[inner].unsqueeze(1)
    before = ahead[inner] - total[layout.sentence[inner]].unsqueeze(1)
    # As a matrix product under the same condition as in _fast_sums.
    top = before.amax(dim=1, keepdim=True)
    after = behind + top
    if bool((after < _ROOM).all() & (transitions < _ROOM).all()):
        return ((before - top).exp_() * weights).T @ after.exp_() * transitions.exp()
    moves = torch.zeros_like(transitions)
    size = max(1, _CHUNK // transitions.numel())
    for a, b, weight in zip(before.split(size), behind.split(size), weights.split(size)):
        pairs = (a.unsqueeze(2) + transitions).add_(b.unsqueeze(1)).exp_()
        moves += pairs.mul_(weight.unsqueeze(2)).sum(dim=0)
    return moves
