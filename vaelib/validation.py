"""Checks of arguments that several modules share."""

from __future__ import annotations

from torch import Tensor


def check_count(name: str, count: int) -> None:
    """Raise a ValueError if an argument is not a whole number of at least 1."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} is {count!r}; expected a whole number, at least 1.")


def kind_of(value: object) -> str:
    """Return what an error message calls a value: a tensor by its type, the rest by its class."""
    return str(value.dtype) if isinstance(value, Tensor) else f"a {type(value).__name__}"
