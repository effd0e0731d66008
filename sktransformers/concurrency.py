"""Several threads and processes: what one of them does at a time, and what a fork leaves behind.

A forked process has one thread. Locks that others held stay locked in it, and pools of threads
are without their threads: whoever waits for them waits for good. `joblib`'s workers, and those of
``spawn``, begin anew and know neither.
"""

import contextlib
import copy
import ctypes
import functools
import os
import threading
from collections.abc import Callable
from typing import Any

from threadpoolctl import threadpool_info

_PARALLEL = "TOKENIZERS_PARALLELISM"
_PAUSE_HARD = 2  # of OpenMP 5.0: threads end, and start again when they are needed


class Alone(contextlib.ContextDecorator):
    """Context or decorator of what one thread does at a time; it may enter it again.

    There is one for the whole life of the process: a fork remembers each.

    Parameters
    ----------
    fork_waits : bool, default=False
        Whether a fork waits for who is inside. Else the forked process does as if nobody were,
        as nobody is.
    """

    def __init__(self, fork_waits: bool = False):
        self._lock = threading.RLock()
        if not hasattr(os, "register_at_fork"):  # Windows
            return
        if fork_waits:
            os.register_at_fork(
                before=self.__enter__,
                after_in_parent=self.__exit__,
                after_in_child=self.__exit__,
            )
        else:
            os.register_at_fork(after_in_child=self._renew)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: Any) -> None:
        self._lock.release()

    def _renew(self) -> None:
        if self._lock.acquire(blocking=False):  # nobody's, or that of the thread that is left
            self._lock.release()
        else:
            self._lock = threading.RLock()


def of_one_fit(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a fitted estimator that finds what one ``fit`` left.

    Another thread may fit the estimator meanwhile: what is fitted appears at once, but a method
    looks at it more than once.
    """

    @functools.wraps(method)
    def look(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(copy.copy(self), *args, **kwargs)

    return look


def _limit_tokenizers() -> None:
    """Give tokenizers as many threads as the numerical libraries of the process have.

    joblib says in the environment of its workers how many those are, and their own pool of threads
    does not look there: each worker would have one for each core.
    """
    number = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if number.isdecimal() and int(number):
        os.environ.setdefault("RAYON_NUM_THREADS", number)


class _Forks:
    """What is done around a fork, in the thread that forks."""

    def __init__(self) -> None:
        self._is_told = False

    def before(self) -> None:
        """End the threads of OpenMP, of which the forked process would wait for those it lacks."""
        for library in threadpool_info():
            if library["prefix"] == "libgomp":  # others know by themselves that they were forked
                with contextlib.suppress(AttributeError, OSError):  # before OpenMP 5.0
                    ctypes.CDLL(library["filepath"]).omp_pause_resource_all(_PAUSE_HARD)
        # Some versions of tokenizers look there when they are forked, and warn if nothing is said.
        self._is_told = _PARALLEL in os.environ
        os.environ.setdefault(_PARALLEL, "false")

    def in_parent(self) -> None:
        """Leave the environment as it was."""
        if not self._is_told:
            os.environ.pop(_PARALLEL, None)

    def in_child(self) -> None:
        """Have tokenizers do without their threads, whatever was said: there are none."""
        os.environ[_PARALLEL] = "false"


_limit_tokenizers()
if hasattr(os, "register_at_fork"):
    _forks = _Forks()
    os.register_at_fork(
        before=_forks.before, after_in_parent=_forks.in_parent, after_in_child=_forks.in_child
    )
# What changes torch's random state waits here, as that belongs to the process: above all, fits.
DRAWING = Alone()
# Registered last: a fork holds it while `_forks` works, and no other fork comes between.
# The transformers library reads models here: meanwhile some of its classes, and of torch's
# functions, do something else, in all threads. Who holds both took `DRAWING` first.
READING = Alone(fork_waits=True)
