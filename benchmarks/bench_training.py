"""Training speed of vaelib against the loop of the PyTorch VAE example, side by side in one run.

Both train the same 784-400-20 network on MNIST with Adam at 1e-3. The loop is the one that the
example, and most code derived from it, uses: a torchvision data set with ToTensor, a DataLoader,
the loss read at every step. Measurements alternate, so that a change of the machine's speed hits
both. The last column relates the rate to what this machine reaches in a large matrix product,
counting 6 operations per weight and image (forward, and twice that backward).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from vaelib import data
from vaelib.evaluation import evaluate
from vaelib.likelihoods import Bernoulli
from vaelib.models import VAE
from vaelib.networks import MLPDecoder, MLPEncoder
from vaelib.training import fit, pick_device


class ExampleVAE(nn.Module):
    """The network of the PyTorch example."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc21, self.fc22 = (
            nn.Linear(784, 400),
            nn.Linear(400, 20),
            nn.Linear(400, 20),
        )
        self.fc3, self.fc4 = nn.Linear(20, 400), nn.Linear(400, 784)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = F.relu(self.fc1(x.view(-1, 784)))
        mu, logvar = self.fc21(hidden), self.fc22(hidden)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mu, logvar


def example_epoch(loader: DataLoader, model: ExampleVAE, optimizer: torch.optim.Optimizer) -> None:
    """One epoch as in the PyTorch example."""
    device = next(model.parameters()).device
    total = 0.0
    for x, _ in loader:
        x = x.to(device)
        optimizer.zero_grad()
        reconstruction, mu, logvar = model(x)
        bce = F.binary_cross_entropy(reconstruction, x.view(-1, 784), reduction="sum")
        loss = bce - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        loss.backward()
        total += loss.item()
        optimizer.step()


def example_runner(images: Dataset, batch_size: int, device: torch.device) -> Callable[[], float]:
    """Return a function that trains the example for an epoch; it returns images per second."""
    model = ExampleVAE().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(images, batch_size=batch_size, shuffle=True)

    def run() -> float:
        start = time.perf_counter()
        example_epoch(loader, model, optimizer)
        return len(images) / (time.perf_counter() - start)

    return run


def vaelib_runner(
    images: Tensor, batch_size: int, device: torch.device, precision: str
) -> tuple[VAE, Callable[[], float]]:
    """Return the model, and a function that trains it for an epoch, as images per second."""
    vae = VAE(
        encoder=MLPEncoder(latent_dim=20, hidden=(400,)),
        decoder=MLPDecoder(latent_dim=20, hidden=(400,)),
        likelihood=Bernoulli(grey=True),
    )

    def run() -> float:
        history = fit(
            vae, images, epochs=1, batch_size=batch_size, device=device, precision=precision,
            progress=False,
        )  # fmt: skip
        return history.images_seen / history.seconds

    return vae, run


def matrix_product_rate(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """Return the best rate of a large matrix product, in operations per second."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        c = a @ b
        c[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    mnist = data.load("mnist")
    train, test = data.to_float(mnist.train.images), data.to_float(mnist.test.images)
    torchvision_mnist = datasets.MNIST(data.data_root(), transform=transforms.ToTensor())
    operations = 6 * (784 * 400 + 400 * 40 + 20 * 400 + 400 * 784)
    peak = matrix_product_rate(device, torch.float32)

    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"matrix product: {peak / 1e9:.0f} GFLOP/s in float32\n")
    print("batch  loop                  images/s   ratio   of the matrix product   test -ELBO")
    for batch_size in (128, 1024):
        example = example_runner(torchvision_mnist, batch_size, device)
        contenders = {"PyTorch example": (None, example)}
        for precision in ("float32", "bfloat16"):
            contenders[f"vaelib, {precision}"] = vaelib_runner(train, batch_size, device, precision)
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(arguments.repeats):
            for name, (_, run) in contenders.items():
                rates[name].append(run())
        for name, (vae, _) in contenders.items():
            rate = statistics.median(rates[name])
            ratio = rate / statistics.median(rates["PyTorch example"])
            share = rate * operations / peak
            quality = f"{evaluate(vae, test).negative_elbo:.2f}" if vae else "-"
            print(
                f"{batch_size:5d}  {name:20s} {rate:9,.0f}  {ratio:5.1f}x   {share:21.0%}"
                f"   {quality:>10s}"
            )


if __name__ == "__main__":
    main()
