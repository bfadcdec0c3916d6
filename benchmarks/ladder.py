"""From the loop of the PyTorch example to ours, one change at a time: what is each worth?"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.contenders import LR, example_loss, torchvision_loader, training_images
from vaelib.models import VAE
from vaelib.objectives import elbo


class Loop(NamedTuple):
    """A training loop, described by what it does differently from the example's."""

    source: str = "torchvision"
    """Where batches come from: ``"torchvision"``, ``"loader"`` over tensors, or ``"resident"``."""
    waits: bool = True
    """Whether the loss is read at every step."""
    logits: bool = False
    """Whether the likelihood is computed from logits, in one function."""
    fused: bool = False
    """Whether Adam updates all weights in one call."""
    precision: str = "float32"
    compiled: bool = False


LADDER = {
    "the example's loop": Loop(),
    "tensors in the loader": Loop(source="loader"),
    "no loader: index a tensor": Loop(source="resident"),
    "loss not read": Loop(source="resident", waits=False),
    "logits": Loop(source="resident", waits=False, logits=True),
    "fused Adam": Loop(source="resident", waits=False, logits=True, fused=True),
    "compiled": Loop("resident", False, True, True, compiled=True),
    "bfloat16, not compiled": Loop("resident", False, True, True, precision="bfloat16"),
}


def climb(vae: VAE, loop: Loop, n: int, batch_size: int, epochs: int, device: str) -> float:
    """Train by one of the loops; return the seconds, first steps (compilation) left out."""
    vae.to(device).train()
    images = training_images(n).to(device)
    optimizer = torch.optim.Adam(vae.parameters(), lr=LR, fused=loop.fused)
    autocast = torch.autocast(device, torch.bfloat16, enabled=loop.precision == "bfloat16")
    bound = torch.compile(elbo) if loop.compiled else elbo
    loader = {
        "torchvision": lambda: torchvision_loader(n, batch_size),
        "loader": lambda: DataLoader(TensorDataset(images), batch_size=batch_size, shuffle=True),
        "resident": lambda: None,
    }[loop.source]()

    def batches():
        if loader is None:
            for index in torch.randperm(n, device=device).split(batch_size):
                yield images[index]
        else:
            for x, *_ in loader:
                yield x.to(device)

    def step(x: torch.Tensor) -> None:
        optimizer.zero_grad()
        with autocast:
            if loop.logits:
                loss = sum(bound(vae, x, validate=False)).mean()
            else:
                loss = example_loss(vae, x) / len(x)
        loss.backward()
        if loop.waits:
            loss.item()
        optimizer.step()

    for size in {batch_size, n % batch_size or batch_size}:  # the last batch may be short
        step(images[:size])
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(epochs):
        for x in batches():
            step(x)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
