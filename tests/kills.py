"""Kills of a process at a chosen place of its work.

Call it from a process that has begun no threads: it forks.
"""

import math
import os
import signal
import time
import traceback


def die(*args, **kwargs):
    """End this process at once, as a machine without power does."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_in(owner, name, n=1, do=die, after=False):
    """Have the n-th call of a function of a module or class kill this process.

    Parameters
    ----------
    do : callable
        ``do(real, *args)`` is called instead of it that time.
    after : bool
        Whether the call is made before the process dies.
    """
    real, left = getattr(owner, name), [n]

    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            if after:
                real(*args, **kwargs)
            do(real, *args, **kwargs)
            die()
        return real(*args, **kwargs)

    setattr(owner, name, call)


def fork(action, seconds=math.inf):
    """Let a child do something; return whether it came to the end, True, or was killed, False.

    Parameters
    ----------
    action : callable
    seconds : float
        It is killed after so long, wherever it is.

    Raises
    ------
    RuntimeError
        If an error ended it, whose trace is on standard error.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    status = _status(pid, time.monotonic() + seconds)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    if status:
        raise RuntimeError(f"a child ended with status {status}")
    return True


def _status(pid, end):
    """What became of a child, which is killed at some time."""
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]
