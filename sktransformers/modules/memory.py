"""What to do when memory does not suffice."""

import warnings
from typing import Any

import torch

# Where torch raises a RuntimeError and no more: on the CPU (the second and third come from oneDNN),
# on MPS, and from CUDA's libraries.
_MESSAGES = (
    "DefaultCPUAllocator",
    "could not create a primitive",
    "could not create a memory object",
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the CPU or the device has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _MESSAGES)


def make_room(error: Exception, budget: Any, lengths: Any) -> None:
    """Have less go through at once after sequences of some lengths ran out of memory.

    Warns the first time that a budget shrinks.

    Parameters
    ----------
    error : Exception
        What was raised; anything but a lack of memory is raised again.
    budget : Budget
    lengths : ndarray of int
        Tokens of each sequence.

    Raises
    ------
    MemoryError
        If each sequence was on its own already.
    """
    if not is_out_of_memory(error):
        raise error
    longest, is_first = int(lengths.max(initial=1)), budget.is_whole
    if not budget.shrink(lengths):
        raise MemoryError(
            f"A sequence of {longest} tokens does not fit into memory on its own. Choose a smaller "
            f"max_length or a smaller backbone; for training also "
            f"Backbone(gradient_checkpointing=True), or a smaller batch_size if the head has "
            f"batch_norm=True."
        ) from error
    if is_first:
        warnings.warn(
            f"Out of memory with {len(lengths)} sequences of up to {longest} tokens, in spite of "
            f"max_batch_tokens={budget.given}. They and longer ones go on with "
            f"max_batch_tokens={budget.of(longest)}, halved again where that is too much.",
            stacklevel=2,
        )


def free(device: torch.device) -> None:
    """Give back what torch holds on to after failed work."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).empty_cache()
