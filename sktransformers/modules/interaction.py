"""Two texts, read one by one -> one vector."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Width of the pair vector, in widths of a text vector.
WIDTHS = {"concat": 2, "difference": 1, "product": 1, "all": 4, "attention": 4}


def combine(mode: str, a: Tensor, b: Tensor) -> Tensor:
    r"""The pair vector of text vectors a and b, each of shape (n, width).

    Parameters
    ----------
    mode : {"concat", "difference", "product", "all"}
        :math:`(h_a; h_b)`, :math:`h_a - h_b`, :math:`h_a \circ h_b`, or
        :math:`(h_a; h_b; |h_a - h_b|; h_a \circ h_b)` (Conneau et al. 2017,
        arXiv:1705.02364).
    a, b : Tensor of shape (n, width)
    """
    if mode == "concat":
        return torch.cat([a, b], dim=-1)
    if mode == "difference":
        return a - b
    if mode == "product":
        return a * b
    return torch.cat([a, b, (a - b).abs(), a * b], dim=-1)


class CrossAttention(nn.Module):
    r"""Token-level attention of each text over the other.

    Every token :math:`a_i` of one text looks up what corresponds to it in the other,
    :math:`\alpha_i = \sum_j softmax_j(a_i^T W b_j / \sqrt d) b_j`, and is compared with it;
    the pair vector holds the means of :math:`|a_i - \alpha_i|` and of
    :math:`a_i \circ \alpha_i` over the tokens of the first text, then those of the second
    (Parikh et al. 2016, arXiv:1606.01933, with the comparisons of Chen et al. 2017,
    arXiv:1609.06038). W is learned and starts as the identity.

    Parameters
    ----------
    width : int
        Width d of the token vectors.
    """

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(width))

    def forward(self, a: Tensor, mask_a: Tensor, b: Tensor, mask_b: Tensor) -> Tensor:
        """Compare padded tokens (n, length, width) under masks (n, length) to (n, 4 * width)."""
        weight = self.weight.to(a.dtype)
        return torch.cat(
            [
                self._compare(a, mask_a, b, mask_b, weight),
                self._compare(b, mask_b, a, mask_a, weight.T),
            ],
            dim=-1,
        )

    def _compare(
        self, a: Tensor, mask_a: Tensor, b: Tensor, mask_b: Tensor, weight: Tensor
    ) -> Tensor:
        query = a @ weight
        # (n, one head, length, width): the fused kernel keeps no length x length matrix.
        found = F.scaled_dot_product_attention(
            query.unsqueeze(1), b.unsqueeze(1), b.unsqueeze(1), mask_b[:, None, None, :]
        ).squeeze(1)
        compared = torch.cat([(a - found).abs(), a * found], dim=-1)
        compared = compared.masked_fill(~mask_a.unsqueeze(-1), 0.0)
        count = mask_a.sum(dim=1, keepdim=True).clamp(min=1).to(a.dtype)
        return compared.sum(dim=1) / count
