"""Turns a reader's attempt at an exercise into a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def compare(
    attempt: Callable[..., Tensor | None],
    reference: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    *,
    within: float = 1e-4,
) -> None:
    """Print whether a reader's function agrees with the reference on the same inputs.

    Parameters
    ----------
    attempt
        What the reader wrote; as long as it returns ``None`` it counts as not written yet.
    reference
        What it should compute.
    inputs
        The arguments of both.
    within
        The largest difference that counts as agreement.
    """
    name, ours, theirs = attempt.__name__, reference(*inputs), attempt(*inputs)
    if theirs is None:
        print(f"{name} is not written yet.")
        return
    if theirs.shape != ours.shape:
        print(f"{name} has shape {list(theirs.shape)}; expected {list(ours.shape)}.")
        return
    difference = (theirs - ours).abs()
    if bool(difference.max() <= within):  # false for NaN, too
        print(f"{name} agrees with the reference.")
        return
    worst = int(torch.nan_to_num(difference, nan=torch.inf).argmax())
    print(
        f"{name} is {theirs.flatten()[worst]:.4f} where the reference is "
        f"{ours.flatten()[worst]:.4f}, at entry {worst}."
    )
