"""Token vectors -> one vector a text, and vectors of a text's parts -> one."""

import torch
from torch import Tensor, nn

POOLINGS = ("cls", "mean", "max", "last", "attention")
SEGMENT_POOLINGS = ("first", "last", "mean", "max", "attention")


class Pooling(nn.Module):
    r"""Pool the token vectors :math:`H` of a text into one vector :math:`h`.

    Parameters
    ----------
    mode : {"cls", "mean", "max", "last", "attention"}
        - ``"cls"``: the first real token, :math:`h = H_1` (Devlin et al. 2019,
          arXiv:1810.04805);
        - ``"last"``: the last real token (Radford et al. 2018);
        - ``"mean"``: the mean over real tokens (Reimers and Gurevych 2019,
          arXiv:1908.10084);
        - ``"max"``: the largest value of each dimension over real tokens;
        - ``"attention"``: :math:`h = \sum_i a_i H_i`, :math:`a = softmax(H v)` with a
          learned vector v (Yang et al. 2016), which starts at zero, that is, at the mean.
    hidden_size : int
        Width of the token vectors.
    """

    def __init__(self, mode: str, hidden_size: int):
        super().__init__()
        self.mode = mode
        if mode == "attention":
            self.score = nn.Parameter(torch.zeros(hidden_size))

    @property
    def reads_one(self) -> bool:
        """Whether one token a text is read, at `positions`."""
        return self.mode in ("cls", "last")

    def positions(self, mask: Tensor) -> Tensor:
        """The first or last real token of each text, of shape (batch,)."""
        places = torch.arange(mask.shape[1], device=mask.device)
        if self.mode == "cls":
            return torch.where(mask > 0, places, mask.shape[1] - 1).min(dim=1).values
        return (places * mask).max(dim=1).values

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Pool hidden (batch, length, width) under mask (batch, length) to (batch, width)."""
        if self.reads_one:
            if hidden.shape[1] == 1:  # the last block was computed nowhere else
                return hidden[:, 0]
            each = torch.arange(hidden.shape[0], device=hidden.device)  # len is no symbol
            return hidden[each, self.positions(mask)]
        real = mask.unsqueeze(-1).bool()
        if self.mode == "max":
            return hidden.masked_fill(~real, torch.finfo(hidden.dtype).min).max(dim=1).values
        if self.mode == "mean":
            total = hidden.masked_fill(~real, 0.0).sum(dim=1)
            return total / mask.sum(dim=1, keepdim=True).clamp(min=1).to(hidden.dtype)
        scores = hidden @ self.score.to(hidden.dtype)
        precise = torch.promote_types(scores.dtype, torch.float32)  # half precision is too coarse
        weights = scores.to(precise).masked_fill(mask == 0, -1e30).softmax(dim=1).to(hidden.dtype)
        return (weights.unsqueeze(-1) * hidden.masked_fill(~real, 0.0)).sum(dim=1)


class SegmentPooling(nn.Module):
    r"""Pool consecutive vectors into one a segment: windows of a text, pieces of a word.

    Parameters
    ----------
    mode : {"first", "last", "mean", "max", "attention"}
        As in `Pooling`, over the vectors of a segment; attention starts at the mean.
    width : int
        Width of the vectors.
    """

    def __init__(self, mode: str, width: int):
        super().__init__()
        self.mode = mode
        if mode == "attention":
            self.score = nn.Parameter(torch.zeros(width))

    def forward(self, vectors: Tensor, sizes: Tensor) -> Tensor:
        """Pool vectors (n, width) in segments of sizes (m,), none of them empty, to (m, width)."""
        if len(vectors) == len(sizes):
            return vectors
        if self.mode in ("first", "last"):
            ends = sizes.cumsum(0)
            return vectors[ends - sizes if self.mode == "first" else ends - 1]
        segment = torch.repeat_interleave(sizes, output_size=len(vectors))
        if self.mode == "max":
            pooled = vectors.new_zeros(len(sizes), vectors.shape[1])
            index = segment.unsqueeze(1).expand_as(vectors)
            return pooled.scatter_reduce(0, index, vectors, "amax", include_self=False)
        # In half precision 256 + 1 = 256: hundreds of windows would not add up.
        precise = torch.promote_types(vectors.dtype, torch.float32)
        pooled = vectors.new_zeros(len(sizes), vectors.shape[1], dtype=precise)
        if self.mode == "mean":
            total = pooled.index_add(0, segment, vectors.to(precise))
            return (total / sizes.unsqueeze(1)).to(vectors.dtype)
        scores = (vectors @ self.score.to(vectors.dtype)).to(precise)
        top = scores.new_zeros(len(sizes)).scatter_reduce(
            0, segment, scores.detach(), "amax", include_self=False
        )
        weights = (scores - top[segment]).exp()
        total = weights.new_zeros(len(sizes)).index_add(0, segment, weights)
        weights = weights / total[segment]
        weighted = weights.unsqueeze(1) * vectors.to(precise)
        return pooled.index_add(0, segment, weighted).to(vectors.dtype)
