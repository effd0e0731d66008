"""Where, how precisely and from which random state training runs."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch

from sktransformers.concurrency import DRAWING

_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(device: Any) -> torch.device:
    """The device that a parameter names; ``"auto"`` takes CUDA, then MPS, then the CPU.

    Raises
    ------
    ValueError
        If torch knows no such device or the machine has none.
    """
    named = named_device(device)
    if named is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if not is_available(named):
        raise ValueError(f"device={device!r} is not available on this machine.")
    return named


def named_device(device: Any) -> torch.device | None:
    """The device that a parameter names, whether or not this machine has it; None for ``"auto"``.

    Raises
    ------
    ValueError
        If torch knows no such device.
    """
    if isinstance(device, str) and device == "auto":
        return None
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f'device={device!r} is no device; expected "auto", "cpu", "cuda", "cuda:1", "mps".'
        ) from error


def is_available(device: torch.device) -> bool:
    """Whether this machine has the device."""
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return device.type == "cpu"


def resolve_precision(
    precision: str, device: torch.device, training: bool = False
) -> torch.dtype | None:
    """Type of the autocast forward pass, None for none.

    ``"auto"`` is bf16 on CUDA devices that have it. On CPUs that multiply matrices in it it is
    bf16 in training alone, which is noisy anyway: there predictions keep to float tolerance.
    """
    if precision != "auto":
        return _PRECISIONS[precision]
    if device.type == "cuda":
        use_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        use_bf16 = training and device.type == "cpu" and cpu_has_bf16_tiles()
    return torch.bfloat16 if use_bf16 else None


def cpu_has_bf16_tiles() -> bool:
    """Whether the CPU has AMX: instructions that multiply tiles of matrices in bf16."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def resolve_seed(random_state: Any) -> int:
    """A seed from a scikit-learn random state, without touching NumPy's global state."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    return int(random_state)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch inside, and give its random states back afterwards."""
    cuda = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    with DRAWING, torch.random.fork_rng(devices=list(cuda)):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed_all(seed)
        mps_state = torch.mps.get_rng_state() if device.type == "mps" else None
        if mps_state is not None:
            torch.mps.manual_seed(seed)
        try:
            yield
        finally:
            if mps_state is not None:
                torch.mps.set_rng_state(mps_state)


def remembered_draws(device: torch.device) -> Callable[[], None]:
    """What brings torch's random states back to those of now."""
    states = [(torch.set_rng_state, torch.get_rng_state())]
    if device.type == "cuda":
        state = torch.cuda.get_rng_state(device)
        states.append((partial(torch.cuda.set_rng_state, device=device), state))
    if device.type == "mps":
        states.append((torch.mps.set_rng_state, torch.mps.get_rng_state()))

    def restore() -> None:
        for set_state, state in states:
            set_state(state)

    return restore


def same_draws(device: torch.device) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Contexts of a forward pass and of its repetition, in which it draws the same numbers.

    On the CPU and on CUDA torch's checkpoint brings back the random state itself, on MPS it
    does not (https://github.com/pytorch/pytorch/issues/127676): dropout masks would differ,
    and the gradient would be wrong without a word.
    """
    again = _drawing_from(torch.mps.get_rng_state()) if device.type == "mps" else nullcontext()
    return nullcontext(), again


@contextmanager
def _drawing_from(state: torch.Tensor) -> Iterator[None]:
    after = torch.mps.get_rng_state()
    torch.mps.set_rng_state(state)
    try:
        yield
    finally:
        torch.mps.set_rng_state(after)
