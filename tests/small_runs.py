"""A run that takes a tenth of a second, for several test files."""

from pathlib import Path

import torch

from vaelib.configuration import Configuration
from vaelib.runs import Images, train
from vaelib.seeding import generator

SMALL = Configuration(
    data="digits",
    encoder_hidden=(8,),
    decoder_hidden=(8,),
    corrupt="binarize",
    likelihood="gaussian",
    learn_sigma=True,
    beta_schedule="linear",
    epochs=3,
    batch_size=16,
    lr=3e-3,
    lr_schedule="warmup-cosine",
    weight_decay=0.01,
    device="cpu",
    precision="float32",
)


def small_images(n: int = 40) -> Images:
    rng = generator(0, "small images")
    x = torch.rand(n + 10, 1, 28, 28, generator=rng).round(decimals=2)
    labels = torch.arange(n + 10) % 3
    return Images(x[:n], x[n:], labels[:n], labels[n:])


def small_run(folder: Path, config: Configuration = SMALL, **options) -> Path:
    train(config, folder, images=small_images(), progress=False, **options)
    return folder
