"""The program a scoring process runs: `python -m mindrl.rewards.scoring_program FD PARENT_PID NAME ...`.

It answers "ready" once the functions are imported, then each list of (index, item) it receives with one `Scored` an
item, in order. It ends when its parent does, even in the middle of arithmetic that never returns.
"""

import ctypes
import logging
import math
import os
import signal
import sys
from multiprocessing.connection import Connection

from mindrl.rewards.protocol import READY, RewardItem, Scored
from mindrl.rewards.registry import RewardFunction, find
from mindrl.rewards.result import RewardResult

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

logger = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    descriptor, parent, *names = arguments
    _die_with(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    channel = Connection(int(descriptor))
    functions = {name: find(name) for name in names}
    channel.send(READY)
    while True:
        try:
            chunk: list[tuple[int, RewardItem]] = channel.recv()
        except (EOFError, ConnectionResetError):
            return
        for index, item in chunk:
            channel.send(_score(functions, index, item))


def _score(functions: dict[str, RewardFunction], index: int, item: RewardItem) -> Scored:
    scores: list[float] = []
    reasons: dict[str, float] = {}
    crashed = False
    for name, function in functions.items():
        try:
            result = function(item.prompt, item.response, item.ground_truth, item.extra)
            if not isinstance(result, RewardResult) or not math.isfinite(result.score):
                raise TypeError(f"expected a RewardResult with a finite score, got {result!r}")
        except Exception:  # a user's function may raise anything; it must not take the run with it
            logger.exception("reward function %s raised; the response scores 0", name)
            crashed = True
            scores.append(0.0)
            continue
        scores.append(float(result.score))
        reasons.update({f"{name}/{part}": float(value) for part, value in result.reasons.items()})
    return Scored(index, tuple(scores), reasons, crashed)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, as it can't see that itself while a function hangs."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended before the call
        sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
