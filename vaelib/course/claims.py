"""Claims that execute: a sentence of the book is printed only if its number holds."""

from __future__ import annotations

import math


class ClaimError(AssertionError):
    """A claim of the book does not hold for the value that was measured."""


def check(
    claim: str,
    measured: float,
    *,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    near: float | None = None,
    within: float | None = None,
) -> None:
    """Print the claim if the measured value supports it, and raise otherwise.

    The printed line holds the claim and no measured number, so that it is the same on every
    machine and a notebook test can compare it exactly.

    Parameters
    ----------
    claim
        A sentence, the same whatever data it is checked on.
    measured
        The value that was measured.
    at_least, at_most
        Bounds on the value, both included.
    near, within
        A reference value and the largest allowed distance from it.

    Raises
    ------
    ClaimError
        If the value is outside the bounds, or not a number; the message gives the value.
    ValueError
        If no bound was given, or only one of ``near`` and ``within``.
    """
    if (near is None) != (within is None):
        raise ValueError("near and within go together: give both or neither.")
    if any(b is not None and math.isnan(b) for b in (at_least, at_most, near, within)):
        raise ValueError(f"a bound of {claim!r} is not a number.")
    if near is not None and within is not None:
        at_least, at_most = max(at_least, near - within), min(at_most, near + within)
    if at_least == -math.inf and at_most == math.inf:
        raise ValueError(f"nothing to check for {claim!r}: give at_least, at_most or near.")
    measured = float(measured)
    if not at_least <= measured <= at_most:
        raise ClaimError(
            f"the claim does not hold: {claim}\n"
            f"measured {measured:.6g}, needed {_interval(at_least, at_most)}"
        )
    print(f"✓ {claim}")


def _interval(low: float, high: float) -> str:
    if low == -math.inf:
        return f"at most {high:.6g}"
    if high == math.inf:
        return f"at least {low:.6g}"
    return f"{low:.6g} to {high:.6g}"
