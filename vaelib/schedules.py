"""Values that change during training, as pure functions of progress.

Progress runs from 0 at the first step to 1 after the last: ``step / steps``. A schedule is any
function of it; it holds no state, so it can be plotted, tested and resumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float], float]


def as_schedule(value: float | Schedule) -> Schedule:
    """Return a schedule as it is, and a number as a schedule that stays there."""
    return value if callable(value) else constant(value)


def constant(value: float) -> Schedule:
    """Return a schedule that stays at ``value``."""
    return lambda progress: value


def cosine(peak: float, *, end: float = 0.0) -> Schedule:
    """Return a schedule that falls from ``peak`` to ``end`` along half a cosine.

    Loshchilov & Hutter (2017), without restarts.
    """
    return lambda progress: end + (peak - end) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_cosine(peak: float, *, warmup: float = 0.1, start: float = 0.0) -> Schedule:
    """Return a schedule that rises linearly to ``peak``, then falls to 0 along half a cosine.

    Parameters
    ----------
    peak
        Largest value.
    warmup
        Share of the training in which the value rises, at least 0 and below 1.
    start
        Value at the first step.
    """
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup is {warmup}; expected a share of the training in [0, 1).")
    rise, fall = linear(start, peak, over=warmup), cosine(peak)
    return lambda progress: (
        rise(progress) if progress < warmup else fall((progress - warmup) / (1 - warmup))
    )


def linear(start: float, end: float, *, over: float = 1.0) -> Schedule:
    """Return a schedule that moves from ``start`` to ``end`` in a straight line, then stays.

    As a schedule of beta it is KL annealing (Bowman et al. 2016).

    Parameters
    ----------
    start, end
        First and last value.
    over
        Share of the training that the movement takes, in [0, 1].
    """
    if not 0 <= over <= 1:
        raise ValueError(f"over is {over}; expected a share of the training in [0, 1].")
    return lambda progress: (
        start + (end - start) * (progress / over) if progress < over else float(end)
    )


def cyclical(end: float, *, cycles: int = 4, rise: float = 0.5) -> Schedule:
    """Return a schedule that rises from 0 to ``end`` again and again, and stays in between.

    As a schedule of beta it is cyclical annealing (Fu et al. 2019).

    Parameters
    ----------
    end
        Value at the end of each rise.
    cycles
        Number of rises, at least 1.
    rise
        Share of each cycle that the rise takes, in [0, 1].
    """
    if not isinstance(cycles, int) or cycles < 1:
        raise ValueError(f"cycles is {cycles!r}; expected a whole number, at least 1.")
    one = linear(0.0, end, over=rise)
    return lambda progress: one(progress * cycles % 1.0)
