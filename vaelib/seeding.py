"""Random streams that depend on a seed and on nothing else."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, stream: str, device: str | torch.device = "cpu") -> torch.Generator:
    """Return the random stream that belongs to a seed and a purpose.

    Streams of different names are independent, so that drawing more noise in one place never
    changes the numbers drawn in another. The global state of torch is neither read nor changed.

    Parameters
    ----------
    seed
        A whole number, zero or more.
    stream
        What the numbers are for, such as ``"batches"`` or ``"noise"``.
    device
        Where the generator draws; a stream is reproducible on one kind of device.

    Raises
    ------
    ValueError
        If the seed is not a whole number of at least 0.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed is {seed!r}; expected a whole number, 0 or more.")
    digest = hashlib.sha256(f"{stream}/{seed}".encode()).digest()
    # torch takes 64 bits; one is left out because some devices read the seed as signed.
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
