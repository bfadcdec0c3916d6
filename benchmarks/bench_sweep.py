"""Training twelve models side by side against training them one after the other, in one run.

The models are those of the sweep over beta in chapter 4. Both ways take the same steps on the same
batches; measurements alternate, so that a change of the machine's speed hits both.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from vaelib import recipes
from vaelib.seeding import generator
from vaelib.sweeps import fit_sweep
from vaelib.training import fit, pick_device


def seconds_together(images: torch.Tensor, **recipe: object) -> float:
    """Train all models in one computation and return the seconds."""
    vaes = recipes.sweep_vaes()
    started = time.perf_counter()
    fit_sweep(vaes, images, betas=recipes.BETAS, epochs=1, progress=False, **recipe)
    return time.perf_counter() - started


def seconds_in_turn(images: torch.Tensor, **recipe: object) -> float:
    """Train the models one after the other and return the seconds, evaluations left out."""
    return sum(
        fit(vae, images, beta=beta, epochs=1, progress=False, **recipe).seconds
        for vae, beta in zip(recipes.sweep_vaes(), recipes.BETAS, strict=True)
    )


def main() -> None:
    """Print one line for each batch size and precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40, help="steps per model and measurement")
    parser.add_argument("--repeats", type=int, default=3, help="measurements; medians are shown")
    arguments = parser.parse_args()
    print(f"{pick_device()}, {torch.get_num_threads()} threads, {len(recipes.BETAS)} models")
    print("batch  precision  one by one  together  (images/s over all models)  ratio")
    for batch_size in (128, 512):
        shape = (arguments.steps * batch_size, 1, 28, 28)
        images = torch.rand(shape, generator=generator(0, "images"))
        for precision in ("float32", "bfloat16"):
            recipe = {"batch_size": batch_size, "precision": precision}
            pairs = [
                (seconds_in_turn(images, **recipe), seconds_together(images, **recipe))
                for _ in range(arguments.repeats)
            ]
            in_turn, together = (statistics.median(t) for t in zip(*pairs, strict=True))
            n = len(images) * len(recipes.BETAS)
            print(
                f"{batch_size:5d}  {precision:9s}  {n / in_turn:10,.0f}  {n / together:8,.0f}"
                f"{in_turn / together:35.2f}"
            )


if __name__ == "__main__":
    main()
