"""Token vectors -> one vector a text. Padding never counts."""

import torch
from torch import Tensor, nn

POOLINGS = ("cls", "mean", "max", "last", "attention")


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

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Pool hidden (batch, length, width) under mask (batch, length) to (batch, width)."""
        if self.mode in ("cls", "last"):
            positions = torch.arange(mask.shape[1], device=mask.device)
            if self.mode == "cls":
                index = torch.where(mask > 0, positions, mask.shape[1] - 1).min(dim=1).values
            else:
                index = (positions * mask).max(dim=1).values
            return hidden[torch.arange(len(hidden), device=hidden.device), index]
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
