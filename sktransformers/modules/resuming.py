"""A backbone that stops between two of its blocks, and goes on from there another time.

What lies below such a place is not computed again: the blocks there give what was kept. The
backbone's own forward pass runs around them, so that masks, positions and whatever else it prepares
for the blocks above are there. Embeddings are computed too, and not looked at.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sktransformers.modules.backbone import are_alike, parts, token_vectors

# What a call of a module looks up on it.
_CALLED = ("forward", "_compiled_call_impl")


class _Enough(Exception):
    """Nothing above is wanted."""


class Places:
    """The places behind each block of a backbone; number n lies above the n lowest blocks.

    Parameters
    ----------
    backbone : PreTrainedModel

    Raises
    ------
    ValueError
        If its layers are no list of blocks.
    """

    def __init__(self, backbone: Any):
        self.backbone = backbone
        self.blocks = parts(backbone).blocks
        self._n_rest: int | None = None  # of a tuple, what is not hidden states; None: no tuple

    def states(self, places: Sequence[int], **inputs: Tensor) -> list[Tensor]:
        """Hidden states of every token at some places, each of shape (batch, length, width).

        Parameters
        ----------
        places : sequence of int
            From 1 to the number of blocks.
        **inputs : Tensor
            As in `token_vectors`.

        Raises
        ------
        ValueError
            If a block gives something else, or more.
        """
        found: dict[int, Tensor] = {}
        # A block whose weights serve several layers is called again; there the last call counts.
        last = max(places) if max(places) < len(self.blocks) else None

        def hook(place: int) -> Any:
            def called(block: nn.Module, args: Any, output: Any) -> None:
                found[place] = self._hidden(block, output)
                if place == last:
                    raise _Enough

            return called

        hooks = [self.blocks[n - 1].register_forward_hook(hook(n)) for n in places]
        try:
            token_vectors(self.backbone, **inputs)
        except _Enough:
            pass
        finally:
            for each in hooks:
                each.remove()
        for states in found.values():
            if states.ndim != 3 or states.shape[:2] != inputs["attention_mask"].shape:
                raise ValueError(f"its blocks give tensors of shape {tuple(states.shape)}")
        return [found[n] for n in places]

    def _hidden(self, block: nn.Module, output: Any) -> Tensor:
        hidden, *rest = output if isinstance(output, tuple) else (output,)
        if not isinstance(hidden, Tensor) or any(thing is not None for thing in rest):
            raise ValueError(f"{type(block).__name__} hands on more than hidden states")
        self._n_rest = len(rest) if isinstance(output, tuple) else None
        return hidden

    @contextmanager
    def resumed(self, place: int, states: Tensor) -> Iterator[None]:
        """Inside, the backbone goes on from hidden states that `states` gave for a place.

        ``forward`` is replaced, not the blocks: a backbone may look at attributes of these.
        """
        output = states if self._n_rest is None else (states, *[None] * self._n_rest)
        below = self.blocks[:place]
        own = [{name: vars(b)[name] for name in _CALLED if name in vars(b)} for b in below]

        def forward(*args: Any, **kwargs: Any) -> Any:
            return output

        try:
            for block in below:
                vars(block).update(forward=forward, _compiled_call_impl=None)
            yield
        finally:
            for block, before in zip(below, own):
                for name in _CALLED:
                    vars(block).pop(name, None)
                vars(block).update(before)

    @torch.no_grad()
    def objection(self, places: Sequence[int], inputs: dict[str, Tensor]) -> str:
        """Why the backbone cannot go on from some places; empty if it can, as far as a trial goes.

        Each sequence goes through alone up to each place, then all together from there on. The
        backbone must be in evaluation mode.

        Parameters
        ----------
        places : sequence of int
        inputs : dict of str to Tensor
            Right-padded sequences of different lengths, as `token_vectors` reads them.
        """
        mask = inputs["attention_mask"].bool()
        lengths = mask.sum(dim=1).tolist()
        try:
            expected = token_vectors(self.backbone, **inputs)
            alone = [
                self.states(places, **{name: x[i : i + 1, :n] for name, x in inputs.items()})
                for i, n in enumerate(lengths)
            ]
            for place, parts_of in zip(places, zip(*alone)):
                states = parts_of[0].new_zeros(*mask.shape, parts_of[0].shape[-1])
                states[mask] = torch.cat([part[0] for part in parts_of])
                with self.resumed(place, states):
                    found = token_vectors(self.backbone, **inputs)
                if not _are_close(found, expected, mask):
                    return f"from block {place} on it gives something else"
        except Exception as error:  # whatever a family's code makes of it
            return f"it cannot go on from block {max(places)} ({error})"
        return ""


def _are_close(found: Tensor, expected: Tensor, mask: Tensor) -> bool:
    return found.shape == expected.shape and are_alike(found[mask], expected[mask])
