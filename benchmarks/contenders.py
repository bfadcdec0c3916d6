"""Ways to train the same network: each function trains it and returns the seconds it took.

The loops follow their sources as users write them. All get the same network with the same first
weights, Adam at 1e-3, and grey images of MNIST under a Bernoulli likelihood.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from vaelib import data
from vaelib.likelihoods import Bernoulli
from vaelib.models import VAE
from vaelib.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from vaelib.objectives import elbo
from vaelib.training import fit

LR = 1e-3


def mlp_784_400_20() -> VAE:
    """Build the network of the PyTorch example, 784-400-20 and back."""
    return VAE(
        encoder=MLPEncoder(latent_dim=20, hidden=(400,)),
        decoder=MLPDecoder(latent_dim=20, hidden=(400,)),
        likelihood=Bernoulli(grey=True),
    )


def conv_70k() -> VAE:
    """Build the network of the TensorFlow tutorial on convolutional VAEs, 69,989 parameters."""
    return VAE(
        encoder=ConvEncoder(latent_dim=2),
        decoder=ConvDecoder(latent_dim=2),
        likelihood=Bernoulli(grey=True),
    )


NETWORKS: dict[str, Callable[[], VAE]] = {"mlp": mlp_784_400_20, "conv": conv_70k}


def example_loss(vae: VAE, x: Tensor) -> Tensor:
    """Compute the loss as the PyTorch example does: probabilities, and sums over the batch."""
    mu, logvar = vae.encoder(x)
    z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
    reconstruction = torch.sigmoid(vae.decoder(z))
    bce = F.binary_cross_entropy(reconstruction, x, reduction="sum")
    return bce - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


def training_images(n: int) -> Tensor:
    """Return the first n training images of MNIST."""
    return data.to_float(data.load("mnist").train.images[:n])


def torchvision_loader(n: int, batch_size: int) -> DataLoader:
    """Return torchvision's MNIST as the example reads it."""
    mnist = datasets.MNIST(data.data_root(), transform=transforms.ToTensor())
    return DataLoader(Subset(mnist, range(n)), batch_size=batch_size, shuffle=True)


def pytorch_example(vae: VAE, n: int, batch_size: int, epochs: int, device: str) -> float:
    """Train by the loop of the PyTorch example; return the seconds."""
    loader = torchvision_loader(n, batch_size)
    vae.to(device).train()
    optimizer = torch.optim.Adam(vae.parameters(), lr=LR)
    started = time.perf_counter()
    for _ in range(epochs):
        train_loss = 0.0
        for x, _ in loader:
            optimizer.zero_grad()
            loss = example_loss(vae, x.to(device))
            loss.backward()
            train_loss += loss.item()
            optimizer.step()
    return time.perf_counter() - started


def lightning(vae: VAE, n: int, batch_size: int, epochs: int, device: str) -> float:
    """Train a Lightning module, with a trainer that does nothing else; return the seconds."""
    import lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.vae = vae

        def on_train_start(self) -> None:
            self.seconds = -time.perf_counter()

        def on_train_end(self) -> None:
            self.seconds += time.perf_counter()

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return example_loss(self.vae, batch[0]) / len(batch[0])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=LR)

    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Module()
    trainer.fit(module, torchvision_loader(n, batch_size))
    return module.seconds


def pythae(vae: VAE, n: int, batch_size: int, epochs: int, device: str) -> float:
    """Train by pythae's trainer; return the seconds."""
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=epochs,
            learning_rate=LR,
            per_device_train_batch_size=batch_size,
            optimizer_cls="Adam",
            no_cuda=device != "cuda",
        )
        images = BaseDataset(training_images(n), torch.zeros(n))
        trainer = BaseTrainer(as_pythae(vae), images, training_config=config)
        started = time.perf_counter()
        trainer.train()
        return time.perf_counter() - started


def as_pythae(vae: VAE) -> nn.Module:
    """Return a VAE of pythae that has the networks of ours."""
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.latent_dim = vae.encoder, vae.latent_dim

        def forward(self, x: Tensor) -> ModelOutput:
            mu, logvar = self.network(x)
            return ModelOutput(embedding=mu, log_covariance=logvar)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = vae.decoder

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))

    shape = {"input_dim": vae.image_shape, "latent_dim": vae.latent_dim}
    config = VAEConfig(**shape, reconstruction_loss="bce")
    return PythaeVAE(config, encoder=Encoder(), decoder=Decoder())


def vaelib(
    vae: VAE,
    n: int,
    batch_size: int,
    epochs: int,
    device: str,
    *,
    precision: str = "float32",
    compiled: bool = False,
    samples: int = 1,
) -> float:
    """Train by :func:`vaelib.training.fit`; return the seconds, compilation left out."""
    recipe = {"batch_size": batch_size, "lr": LR, "precision": precision, "device": device}
    recipe |= {"objective": torch.compile(elbo) if compiled else elbo, "samples": samples}
    images = training_images(n)
    if compiled:  # on a copy of the weights, so that all contenders take equally many steps
        weights = {name: value.clone() for name, value in vae.state_dict().items()}
        both_sizes = batch_size + n % batch_size  # a whole batch and the short last one
        fit(vae, images[:both_sizes], epochs=1, progress=False, **recipe)
        vae.load_state_dict(weights)
    return fit(vae, images, epochs=epochs, evaluate_every=epochs, progress=False, **recipe).seconds


CONTENDERS: dict[str, Callable[..., float]] = {
    "PyTorch example": pytorch_example,
    "Lightning": lightning,
    "pythae": pythae,
    "vaelib": vaelib,
    "vaelib, compiled": partial(vaelib, compiled=True),
    "vaelib, bfloat16": partial(vaelib, precision="bfloat16"),
}
