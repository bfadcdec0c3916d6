"""Claims that execute: a sentence of the book is printed only if its number holds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

Measured: TypeAlias = float | Sequence[float] | np.ndarray | torch.Tensor

STANDARD_ERRORS = 2
"""By how many standard errors a mean over seeds or draws has to clear its bound."""
LOOSE_SPREADS = 5
LOOSE_SHARE = 0.5


class ClaimError(AssertionError):
    """A claim of the book does not hold for the value that was measured."""


@dataclass(frozen=True)
class Claim:
    """One line of the ledger.

    Parameters
    ----------
    sentence
        What is claimed.
    published
        Whether its numbers are those of a long run; otherwise they were measured in this run.
    checked
        Whether the data of this run can carry it.
    measured
        The value, or the mean over seeds or draws.
    low, high
        Its bounds, both included.
    spread
        The standard deviation over seeds or draws, where there is one.
    loose
        Why the bound is far from the value, where it is.
    """

    sentence: str
    published: bool
    checked: bool
    measured: float
    low: float
    high: float
    spread: float | None = None
    loose: str | None = None

    @property
    def kind(self) -> str:
        """``"live"`` or ``"published"``."""
        return "published" if self.published else "live"

    @property
    def margin(self) -> float:
        """The distance of the value from the nearer bound, negative beyond it."""
        return min(self.measured - self.low, self.high - self.measured)

    @property
    def is_loose(self) -> bool:
        """Whether the bound is more than five spreads, or half of the value, away from it."""
        by_spread = self.spread is not None and self.margin > LOOSE_SPREADS * self.spread
        return by_spread or self.margin > LOOSE_SHARE * abs(self.measured)

    def __str__(self) -> str:
        """Return the printed line: no measured number, so that it is the same on every machine."""
        if self.checked:
            return f"✓ {self.kind}: {self.sentence}"
        return f"○ {self.kind}, not checked on digits: {self.sentence}"


class Claims:
    """The claims of one run of a chapter.

    Parameters
    ----------
    profile
        ``"quick"`` or ``"full"``.
    """

    def __init__(self, *, profile: str) -> None:
        self.profile = profile
        self._claims: dict[str, Claim] = {}  # by sentence: a cell that runs again replaces its own

    def __iter__(self) -> Iterator[Claim]:
        """Iterate over the claims, in the order in which they were first checked."""
        return iter(self._claims.values())

    def check(
        self,
        sentence: str,
        measured: Measured,
        *,
        at_least: float = -math.inf,
        at_most: float = math.inf,
        near: float | None = None,
        within: float | None = None,
        spread: float | None = None,
        published: bool = False,
        on_digits: bool = True,
        loose: str | None = None,
    ) -> None:
        """Print the sentence if what was measured supports it, and raise otherwise.

        Parameters
        ----------
        sentence
            The claim, the same whatever data it is checked on.
        measured
            The value that was measured. Several values, one for each seed or draw, are a sample:
            their mean has to clear the bound by two standard errors.
        at_least, at_most
            Bounds on the value, both included. At the bound the sentence is still true, beyond it
            false.
        near, within
            A reference value and the largest allowed distance from it.
        spread
            The standard deviation of a single value, where it is known.
        published
            Whether the value was computed from the numbers of a long run only.
        on_digits
            Whether scikit-learn's digits can carry the claim. Where they cannot, the profile quick
            says so and checks nothing.
        loose
            Why the bound is far from the value that the published run measured.

        Raises
        ------
        ClaimError
            If the value is outside the bounds, or not a number; the message gives the value.
        ValueError
            If no bound was given, only one of ``near`` and ``within``, or a spread that is none.
        """
        low, high = _bounds(sentence, at_least, at_most, near, within)
        if spread is not None and not 0 <= spread < math.inf:
            raise ValueError(f"the spread of {sentence!r} is {spread}; expected 0 or more.")
        value, spread_of_sample, clearance = _summary(sentence, measured)
        if spread_of_sample is not None:
            if spread is not None:
                raise ValueError(f"{sentence!r} has several values; they have their own spread.")
            spread = spread_of_sample
        checked = on_digits or self.profile != "quick"
        claim = Claim(sentence, published, checked, value, low, high, spread, loose)
        if checked and not low + clearance <= value <= high - clearance:
            among = f", ± {clearance:.3g} for two standard errors" if clearance else ""
            raise ClaimError(
                f"the claim does not hold: {sentence}\n"
                f"measured {value:.6g}{among}, needed {write_bounds(low, high)}"
            )
        self._claims[sentence] = claim
        print(claim)

    def record(self) -> list[dict[str, Any]]:
        """Return the ledger for a JSON file: six digits, ``None`` for a bound that is not there."""
        return [
            {
                "sentence": claim.sentence,
                "kind": claim.kind,
                "checked": claim.checked,
                "measured": _six_digits(claim.measured),
                "at_least": _six_digits(claim.low),
                "at_most": _six_digits(claim.high),
                "spread": _six_digits(claim.spread),
                "loose": claim.loose,
            }
            for claim in self
        ]


def from_record(entry: dict[str, Any]) -> Claim:
    """Return the claim of one entry of a recorded ledger."""
    return Claim(
        sentence=entry["sentence"],
        published=entry["kind"] == "published",
        checked=entry["checked"],
        measured=math.nan if entry["measured"] is None else entry["measured"],
        low=-math.inf if entry["at_least"] is None else entry["at_least"],
        high=math.inf if entry["at_most"] is None else entry["at_most"],
        spread=entry["spread"],
        loose=entry["loose"],
    )


def write_bounds(low: float, high: float) -> str:
    """Write an interval in words."""
    if low == -math.inf:
        return f"at most {high:.6g}"
    if high == math.inf:
        return f"at least {low:.6g}"
    return f"{low:.6g} to {high:.6g}"


def _bounds(
    sentence: str, low: float, high: float, near: float | None, within: float | None
) -> tuple[float, float]:
    if (near is None) != (within is None):
        raise ValueError("near and within go together: give both or neither.")
    if any(b is not None and math.isnan(b) for b in (low, high, near, within)):
        raise ValueError(f"a bound of {sentence!r} is not a number.")
    if near is not None and within is not None:
        low, high = max(low, near - within), min(high, near + within)
    if low == -math.inf and high == math.inf:
        raise ValueError(f"nothing to check for {sentence!r}: give at_least, at_most or near.")
    return low, high


def _summary(sentence: str, measured: Measured) -> tuple[float, float | None, float]:
    """Return value, standard deviation and the clearance that a mean needs."""
    values = torch.as_tensor(measured, dtype=torch.float64)
    if values.ndim == 0:
        return values.item(), None, 0.0
    if values.ndim > 1 or len(values) < 2:
        raise ValueError(
            f"{sentence!r} was given values of shape {tuple(values.shape)}; expected one number, "
            "or one for each of two or more seeds or draws."
        )
    spread = values.std().item()
    return values.mean().item(), spread, STANDARD_ERRORS * spread / math.sqrt(len(values))


def _six_digits(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")
