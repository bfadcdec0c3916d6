"""Case file E: project E's perceptron, run by run, and the autopsy of its convolutional network.

Project E is ``Ashmit110/COMPUTER-VISION``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from vaelib import data
from vaelib.course.lesson_3 import project_e_vae
from vaelib.course.results import provenance
from vaelib.course.store import LongRun, LongRuns
from vaelib.data import to_float
from vaelib.evaluation import active_units, evaluate, evaluation_mode, posterior_of
from vaelib.hardware import pick_device, pick_precision
from vaelib.likelihoods import Bernoulli
from vaelib.models import VAE
from vaelib.networks import IMAGE_SHAPE
from vaelib.objectives import elbo
from vaelib.sample_quality import entropy
from vaelib.schedules import Schedule, constant, cosine
from vaelib.seeding import generator

# The perceptron, runs 1 to 7 --------------------------------------------------------------------

MLP_EPOCHS = 3
"""Epochs of the repeated runs; project E took 100, and 300 for run 1."""


@dataclass(frozen=True)
class Run:
    """One of project E's runs of its perceptron."""

    lr: Schedule
    beta: float
    """The weight of the KL, which is twice what the project calls beta."""
    reported: float | None
    """The average loss that the project printed at the end."""
    weight_decay: float = 0.0


MLP_RUNS = {
    1: Run(constant(1e-4), 1.0, 137.172),
    2: Run(constant(1e-4), 0.8, 141.805, weight_decay=2e-7),
    3: Run(cosine(2e-3), 0.74, 133.048),
    4: Run(cosine(2e-3), 1.0, 134.616),
    5: Run(cosine(2e-3), 0.76, 132.776),
    6: Run(cosine(2e-3), 0.78, 133.671),
    7: Run(cosine(2e-3), 0.82, None),
}
"""Project E's runs by their numbers."""


def start_as_torch_does(model: nn.Module, *, seed: int) -> None:
    """Draw all weights and biases anew, in place, by the defaults of torch's layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "torch's start").initial_seed())
        for layer in model.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
                layer.reset_parameters()


def train_perceptron(
    vae: VAE, images: Tensor, run: Run, *, seed: int, epochs: int, batch_size: int = 100
) -> list[float]:
    """Train as project E did, in place, and return its average loss of every epoch.

    The loss is summed over the batch, the weight decay is the one of Adam, the learning rate
    changes between epochs. The average loss is the sum over the epoch, while the weights move,
    divided by the number of batches minus one times their size: 59,900 for MNIST.
    """
    bfloat16 = pick_precision("auto", images.device) == "bfloat16"
    optimizer = torch.optim.Adam(vae.parameters(), weight_decay=run.weight_decay, fused=True)
    order_rng, noise_rng = (generator(seed, name, images.device) for name in ("order", "noise"))
    average_losses = []
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = run.lr(epoch / epochs)
        batches = torch.randperm(len(images), generator=order_rng, device=images.device)
        overall = torch.zeros((), device=images.device)
        for index in batches.split(batch_size):
            shape = (len(index), vae.latent_dim)
            noise = torch.randn(shape, generator=noise_rng, device=images.device)
            with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
                distortion, rate = elbo(vae, images[index], noise=noise, validate=False)
            loss = (distortion + run.beta * rate).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            overall += loss.detach()
        number_of_last = -(-len(images) // batch_size) - 1  # counted from 0: 599 for MNIST
        average_losses.append(overall.item() / (number_of_last * batch_size))
    return average_losses


def confusions(vae: VAE, test: data.Split, judge: Judge, *, seed: int) -> dict[str, float]:
    """Measure how often the reconstruction of a 4 is read as a 9, and that of a 5 as a 3.

    As in the project's strips, z is one draw from q(z | x).
    """
    shares = {}
    for name, digit, other in (("four_as_nine", 4, 9), ("five_as_three", 5, 3)):
        images = to_float(test.images[test.labels == digit])
        seen = judge.classes(draw_reconstructions(vae, images, seed=seed))
        shares[name] = float((seen == other).double().mean())
    return shares


def train_run(seed: int, *, run: Run, epochs: int = MLP_EPOCHS) -> tuple[VAE, dict[str, Any]]:
    """Train one of project E's runs on MNIST and measure it by its definition and by ours."""
    device, digits = pick_device(), data.load("mnist")
    train, test = (to_float(part.images).to(device) for part in (digits.train, digits.test))
    vae = project_e_vae(seed=seed).to(device)
    start_as_torch_does(vae, seed=seed)
    started = time.perf_counter()
    losses = train_perceptron(vae, train, run, seed=seed, epochs=epochs)
    seconds = time.perf_counter() - started
    on_train, on_test = evaluate(vae, train), evaluate(vae, test)
    return vae, {
        "average_losses": losses,
        "train_negative_elbo": on_train.negative_elbo,
        "test_distortion": on_test.distortion,
        "test_rate": on_test.rate,
        "test_negative_elbo": on_test.negative_elbo,
        **confusions(vae, digits.test, Judge(digits.train), seed=seed),
        "seconds": seconds,
        "provenance": provenance("full", device, seconds),
    }


# The convolutional network ----------------------------------------------------------------------


@dataclass(frozen=True)
class Bugs:
    """What is wrong with a version of project E's convolutional VAE, one switch for each bug.

    The first five change the training, the last two only what is drawn from a trained model.
    """

    half_log: bool = False
    """The KL holds log sigma where log sigma^2 belongs."""
    means: bool = False
    """Means over pixels and over dimensions, the latter times 0.11, in place of sums."""
    squared: bool = False
    """Squared error in place of the cross-entropy of each pixel."""
    absolute: bool = False
    """The encoder gives sigma, as the size of its output, in place of log sigma^2."""
    one_class: bool = False
    """A cross-entropy between classes, of which there is one: the only channel."""
    uniform: bool = False
    """Samples are decoded from torch.rand in place of torch.randn."""
    wide: bool = False
    """Reconstructions are drawn with log sigma^2 as if it were sigma."""

    def __str__(self) -> str:
        """Return the names of the bugs that are there."""
        present = [field.name for field in fields(self) if getattr(self, field.name)]
        return " ".join(present) or "none"


OF_THE_PICTURES = Bugs(half_log=True, means=True, squared=True, absolute=True, uniform=True)
"""The version of 22 and 23 February, whose pictures the project shows."""
AS_COMMITTED = Bugs(one_class=True, uniform=True, wide=True)
"""The version in the project's folder of failed attempts."""
WEIGHT, FIRST_WEIGHT = 0.11, 5e-6
"""What the project calls beta in the version of the pictures, and in the training before it."""


class Encoder(nn.Module):
    """Project E's encoder: 28 -> 14 -> 7 -> 3 by strides of 2, with one batch normalisation."""

    def __init__(self, latent_dim: int = 32) -> None:
        super().__init__()
        self.latent_dim, self.image_shape = latent_dim, IMAGE_SHAPE
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(3 * 3 * 32, 128),
            nn.ReLU(),
            nn.Linear(128, 2 * latent_dim),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map images ``[B, 1, 28, 28]`` to the mean and the scale parameter, each ``[B, D]``."""
        mu, scale = self.layers(x).chunk(2, dim=-1)
        return mu, scale


class Decoder(nn.Module):
    """Project E's decoder: 3 -> 7 -> 14 -> 28, with two batch normalisations."""

    def __init__(self, latent_dim: int = 32) -> None:
        super().__init__()
        self.latent_dim, self.image_shape = latent_dim, IMAGE_SHAPE
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, 128),
            nn.ReLU(),
            nn.Linear(128, 3 * 3 * 32),
            nn.ReLU(),
            nn.Unflatten(1, (32, 3, 3)),
            nn.ConvTranspose2d(32, 16, 3, stride=2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 1, 3, stride=2, padding=1, output_padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Map latent vectors ``[B, D]`` to logits ``[B, 1, 28, 28]``."""
        return self.layers(z)


def conv_vae(bugs: Bugs = Bugs(), *, latent_dim: int = 32, seed: int = 0) -> VAE:
    """Build project E's convolutional network; ``scale="linear"`` takes the size as sigma."""
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced below
        encoder, decoder = Encoder(latent_dim), Decoder(latent_dim)
    scale = "linear" if bugs.absolute else "exp"
    vae = VAE(encoder=encoder, decoder=decoder, likelihood=Bernoulli(grey=True), scale=scale)
    start_as_torch_does(vae, seed=seed)
    return vae


def loss_with(bugs: Bugs, vae: VAE, x: Tensor, *, noise: Tensor, share: float = 1.0) -> Tensor:
    """Return the loss of a batch ``[B, 1, 28, 28]`` in the version that has these bugs.

    The KL counts for a share of its weight.
    """
    mu, output = vae.encoder(x)
    if bugs.absolute:
        sigma = output.abs()
        log_variance = 2 * torch.log(sigma + 1e-13)
    else:
        sigma, log_variance = (output / 2).exp(), output
    logits = vae.decoder(mu + sigma * noise)
    log_term = 0.5 * log_variance if bugs.half_log else log_variance
    kl = -0.5 * (1 + log_term - mu.square() - sigma.square())  # [B, D]
    if bugs.one_class:
        return nn.CrossEntropyLoss()(logits.sigmoid(), x) + share * kl.sum()
    if bugs.squared:
        error = (logits.sigmoid() - x).square()
    else:
        error = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    if bugs.means:
        return error.mean() + share * WEIGHT * 2 * kl.mean()  # the project's bracket is -2 kl
    weight = 0.5 if bugs.squared else 1.0  # half the squared error: a Gaussian of unit variance
    return weight * error.sum((1, 2, 3)).mean() + share * kl.sum(1).mean()


def train(
    seed: int,
    bugs: Bugs,
    images: Tensor,
    *,
    first_epochs: int = 1,
    epochs: int = 6,
    batch_size: int = 128,
    lr: float = 2e-3,
) -> VAE:
    """Train project E's convolutional network with some of its bugs, on the images' device.

    As in the project, the KL counts for next to nothing in the first epochs. Its own batches
    were of 256, its learning rates at most 0.001, and its epochs twenty and more.
    """
    vae = conv_vae(bugs, seed=seed).to(images.device)
    optimizer = torch.optim.Adam(vae.parameters(), lr=lr, fused=True)
    order_rng, noise_rng = (generator(seed, name, images.device) for name in ("order", "noise"))
    vae.train()
    for epoch in range(epochs):
        share = FIRST_WEIGHT / WEIGHT if epoch < first_epochs else 1.0
        order = torch.randperm(len(images), generator=order_rng, device=images.device)
        for index in order.split(batch_size):
            shape = (len(index), vae.latent_dim)
            noise = torch.randn(shape, generator=noise_rng, device=images.device)
            loss = loss_with(bugs, vae, images[index], noise=noise, share=share)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return vae.eval()


@torch.no_grad()
def draw_samples(
    vae: VAE, n: int, *, uniform: bool = False, mean: float = 0.0, scale: float = 1.0, seed: int = 0
) -> Tensor:
    """Decode n points, ``[n, 1, 28, 28]``: mean + scale * noise, normal or uniform on [0, 1]."""
    draw = torch.rand if uniform else torch.randn
    noise = draw(n, vae.latent_dim, generator=generator(seed, "samples")).to(vae.device)
    with evaluation_mode(vae):
        return vae.decode(mean + scale * noise).mean.cpu()


@torch.no_grad()
def draw_reconstructions(vae: VAE, images: Tensor, *, wide: bool = False, seed: int = 0) -> Tensor:
    """Decode one draw of q for each image; ``wide`` takes log sigma^2 for sigma."""
    q = posterior_of(vae, images)
    noise = torch.randn(q.mu.shape, generator=generator(seed, "reconstructions"))
    z = q.mu + (q.logvar if wide else q.stddev) * noise
    with evaluation_mode(vae):
        return torch.cat([vae.decode(part).mean.cpu() for part in z.split(1000)])


class Judge:
    """Reads digits by the majority of the 15 nearest training images, pixel by pixel."""

    def __init__(self, split: data.Split, *, k: int = 15) -> None:
        self._neighbours = KNeighborsClassifier(k)
        self._neighbours.fit(to_float(split.images).flatten(1).numpy(), split.labels.numpy())

    def classes(self, images: Tensor) -> Tensor:
        """Return the digit ``[N]`` that each image ``[N, 1, H, W]`` is nearest to."""
        return torch.from_numpy(self._neighbours.predict(images.flatten(1).numpy()))

    def histogram(self, images: Tensor) -> list[int]:
        """Return how many of the images are read as each of the ten digits."""
        return torch.bincount(self.classes(images), minlength=10).tolist()


def kinds_of(histogram: Sequence[int]) -> int:
    """Return how many digits have at least one per cent of the samples."""
    return sum(100 * count >= sum(histogram) for count in histogram)


def entropy_of(histogram: Sequence[int]) -> float:
    """Return the entropy of the classes in nats: log 10 = 2.30 if they are equally frequent."""
    return float(entropy(torch.tensor(histogram, dtype=torch.float64) / sum(histogram)))


PLACES: dict[str, dict[str, Any]] = {
    "normal": {},
    "uniform": {"uniform": True},
    "gauss(1,2)": {"mean": 1.0, "scale": 2**0.5},
    "uniform for gauss(1,2)": {"uniform": True, "mean": 1.0, "scale": 2**0.5},
}
"""Where samples are decoded from: arguments of :func:`draw_samples`."""


def examine(vae: VAE, test: data.Split, judge: Judge, *, n: int = 1000) -> dict[str, Any]:
    """Measure a trained network: its samples, its reconstructions, its code."""
    images = to_float(test.images)
    samples = {name: draw_samples(vae, n, **place) for name, place in PLACES.items()}
    report = evaluate(vae, images)
    return {
        "histograms": {name: judge.histogram(drawn) for name, drawn in samples.items()},
        "rmse": {
            name: float((draw_reconstructions(vae, images, wide=wide) - images).square().mean())
            ** 0.5
            for name, wide in (("sigma", False), ("wide", True))
        },
        "test_rate": report.rate,
        "test_distortion": report.distortion,
        "test_active_units": int(active_units(vae, images).sum()),
    }


def autopsy(seed: int, *, bugs: Bugs) -> tuple[VAE, dict[str, Any]]:
    """Train the convolutional network with some of its bugs on MNIST, and examine it.

    On the first of its training images only: all sets of bugs have to be trained.
    """
    digits, device = data.load("mnist"), pick_device()
    images = to_float(digits.train_part.images[:IMAGES]).to(device)
    started = time.perf_counter()
    vae = train(seed, bugs, images)
    seconds = time.perf_counter() - started
    return vae, {
        **examine(vae, digits.test, Judge(digits.train)),
        "seconds": seconds,
        "provenance": provenance("full", vae.device, seconds),
    }


IMAGES = 24_000
"""Training images of the convolutional network; project E took 48,000."""
TRAINING_BUGS = ("half_log", "means", "squared", "absolute")
"""The bugs of the pictures that change the training."""
SETS = (TRAINING_BUGS, ("half_log", "squared", "absolute"), ())
"""The sets of them that are trained: all, the same without the means, none."""


def bugs_of(names: Sequence[str]) -> Bugs:
    """Return the bugs with these names, and no other."""
    return Bugs(**dict.fromkeys(names, True))


def run_name(names: Sequence[str]) -> str:
    """Return the name of the long run that trains with these bugs: ``"conv-means-squared"``."""
    return "-".join(["conv", *(name.replace("_", "") for name in names or ["none"])])


SEEDS = (0, 1, 2)
RUNS = LongRuns(
    "case_e_conv_vs_mlp",
    [
        LongRun("run-3", partial(train_run, run=MLP_RUNS[3]), seeds=SEEDS),
        LongRun("run-4", partial(train_run, run=MLP_RUNS[4]), seeds=SEEDS),
        # All bugs and none carry the verdict, so they have three seeds.
        *(
            LongRun(
                run_name(names),
                partial(autopsy, bugs=bugs_of(names)),
                seeds=(0,) if len(names) == 3 else SEEDS,
                keeps_weights=True,
            )
            for names in SETS
        ),
    ],
)
