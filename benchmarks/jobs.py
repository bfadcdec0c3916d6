"""What is measured. Every job runs in a process of its own, so that its peak memory is its own.

Before the clock starts every job does a little of the same work: what a device costs at its first
use is charged to nobody.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contenders import CONTENDERS, NETWORKS, as_pythae, training_images, vaelib
from benchmarks.ladder import LADDER, climb
from vaelib import data
from vaelib.course import lesson_4, lesson_7
from vaelib.evaluation import evaluate, log_likelihood
from vaelib.models import VAE
from vaelib.networks import MLPDecoder, MLPEncoder
from vaelib.objectives import elbo
from vaelib.seeding import generator
from vaelib.sweeps import fit_sweep
from vaelib.training import fit

Numbers = dict[str, Any]


def in_process(job: str, **arguments: Any) -> Numbers:
    """Run a job of this module in a new process; return its numbers, with its peak memory."""
    command = [sys.executable, "-m", "benchmarks.jobs", job, json.dumps(arguments)]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        raise RuntimeError(f"{job} {arguments} failed:\n{answer.stderr[-2000:]}")
    return json.loads(answer.stdout.splitlines()[-1])


def training(
    contender: str, network: str, n: int, batch_size: int, epochs: int, device: str
) -> Numbers:
    """Train a network by one of the contenders, and measure the bound on the test images."""
    x = torch.empty(batch_size, 1, 28, 28, device="meta")  # counted without being computed
    with FlopCounterMode(display=False) as counter:
        sum(elbo(NETWORKS[network]().to("meta"), x, validate=False)).mean().backward()
    vaelib(NETWORKS[network](), batch_size, batch_size, 1, device)
    vae = NETWORKS[network]()
    started = time.perf_counter()
    seconds = CONTENDERS[contender](vae, n, batch_size, epochs, device)
    whole = time.perf_counter() - started
    peak = peak_bytes(device)  # of the training alone, and not of what follows
    test = data.to_float(data.load("mnist").test.images)
    return {
        "images_per_second": n * epochs / seconds,
        "operations_per_image": counter.get_total_flops() / batch_size,
        "peak_bytes": peak,
        "seconds_around": whole - seconds,
        "test_negative_elbo": evaluate(vae, test).negative_elbo,
    }


def ladder(rung: str, network: str, n: int, batch_size: int, epochs: int, device: str) -> Numbers:
    """Train by one of the loops between the example's and ours."""
    seconds = climb(NETWORKS[network](), LADDER[rung], n, batch_size, epochs, device)
    return {"images_per_second": n * epochs / seconds}


def scale(
    what: str, batch_size: int, latent_dim: int, samples: int, n: int, device: str
) -> Numbers:
    """Train the perceptron for an epoch of n images; ``what`` is the size that differs."""
    sizes = {"latent_dim": latent_dim, "hidden": (400,)}
    vae = NETWORKS["mlp"]()
    vae = VAE(encoder=MLPEncoder(**sizes), decoder=MLPDecoder(**sizes), likelihood=vae.likelihood)
    seconds = vaelib(vae, n, batch_size, 1, device, samples=samples)
    return {"images_per_second": n / seconds}


def scoring(library: str, n: int, k: int, device: str) -> Numbers:
    """Estimate log p of n binary images by k samples each, with the network of chapter 7."""
    grey = data.to_float(data.load("mnist").test.images[:n])
    x = data.binarize(grey, generator=generator(0, "binary test")).to(device)
    vae = lesson_7.burda_vae(grey).to(device).eval()
    estimate = {"pythae": _pythae_estimate, "vaelib": _vaelib_estimate}[library](vae)
    estimate(x[:5], k)
    started = time.perf_counter()
    mean = estimate(x, k)
    return {"images_per_second": n / (time.perf_counter() - started), "log_p": mean}


def _vaelib_estimate(vae: VAE) -> Callable[[Tensor, int], float]:
    return lambda x, k: log_likelihood(vae, x, k=k).mean


def _pythae_estimate(vae: VAE) -> Callable[[Tensor, int], float]:
    model = as_pythae(vae)

    @torch.no_grad()  # as pythae's own scripts call it
    def estimate(x: Tensor, k: int) -> float:
        # It is log p, in spite of its name. Blocks as large as ours are on a CPU.
        return float(model.get_nll(x, n_samples=k, batch_size=1000))

    return estimate


def sweep(way: str, batch_size: int, precision: str, n: int, device: str) -> Numbers:
    """Train the twelve models of chapter 4, together or one by one."""
    vaes, images = lesson_4.sweep_vaes(), training_images(n)
    recipe = {"epochs": 1, "batch_size": batch_size, "precision": precision, "device": device}

    def seconds(vaes: list[VAE], images: Tensor) -> float:
        if way == "together":
            started = time.perf_counter()
            fit_sweep(vaes, images, betas=lesson_4.BETAS, progress=False, **recipe)
            return time.perf_counter() - started
        pairs = zip(vaes, lesson_4.BETAS, strict=True)
        # Without the evaluations of fit, which fit_sweep does not make.
        return sum(
            fit(vae, images, beta=beta, progress=False, **recipe).seconds for vae, beta in pairs
        )

    seconds(lesson_4.sweep_vaes(), images[:batch_size])
    return {"images_per_second": n * len(vaes) / seconds(vaes, images)}


def matrix_product(dtype: str, device: str) -> Numbers:
    """Measure the best rate of a large matrix product."""
    size = 2048 if device == "cpu" else 8192  # a GPU is done with less before it is timed
    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    best = float("inf")
    for _ in range(30):
        started = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return {"operations_per_second": 2 * size**3 / best}


def peak_bytes(device: str) -> int:
    """Return the peak so far: of the allocated memory of a GPU, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Run one job and print its numbers as the last line."""
    job, arguments = sys.argv[1], json.loads(sys.argv[2])
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        numbers = globals()[job](**arguments)
    print(json.dumps({"peak_bytes": peak_bytes(arguments["device"])} | numbers))


if __name__ == "__main__":
    main()
