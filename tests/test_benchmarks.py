"""The contenders of the benchmarks do the same work; how fast they are is not tested."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import contenders, jobs, ladder
from benchmarks.__main__ import add_ratios, growth_jobs, training_jobs
from vaelib.evaluation import evaluate, log_likelihood
from vaelib.objectives import elbo


@pytest.fixture
def images(monkeypatch):
    """Sixty images in place of MNIST, for every way in which a contender reads it."""
    x = torch.rand(60, 1, 28, 28, generator=torch.Generator().manual_seed(0)).round()

    def loader(n, batch_size):
        return DataLoader(TensorDataset(x[:n], x[:n]), batch_size=batch_size, shuffle=True)

    for module in (contenders, ladder):
        monkeypatch.setattr(module, "training_images", lambda n: x[:n])
        monkeypatch.setattr(module, "torchvision_loader", loader)
    return x


def test_the_loss_of_the_example_is_the_bound(images):
    vae = contenders.mlp_784_400_20()
    torch.manual_seed(3)
    theirs = contenders.example_loss(vae, images).item()
    torch.manual_seed(3)
    ours = -elbo(vae, images).elbo.sum().item()
    assert theirs == pytest.approx(ours, rel=1e-5)


@pytest.mark.parametrize("name", [name for name in ladder.LADDER if name != "compiled"])
def test_every_loop_of_the_ladder_learns(images, name):
    vae = contenders.mlp_784_400_20()
    before = evaluate(vae, images).negative_elbo
    seconds = ladder.climb(vae, ladder.LADDER[name], n=60, batch_size=20, epochs=5, device="cpu")
    assert seconds > 0
    assert evaluate(vae, images).negative_elbo < before - 10


# A processor without units for bfloat16 is slow at it, which is said, but not wrong.
@pytest.mark.filterwarnings("ignore:this cpu has no units for bfloat16")
@pytest.mark.parametrize("name", ["PyTorch example", "vaelib, bfloat16"])
def test_contenders_end_at_about_the_same_bound(images, name):
    vae, twin = contenders.mlp_784_400_20(), contenders.mlp_784_400_20()
    contenders.CONTENDERS[name](vae, n=60, batch_size=20, epochs=8, device="cpu")
    contenders.vaelib(twin, n=60, batch_size=20, epochs=8, device="cpu")
    expected = evaluate(twin, images).negative_elbo
    assert evaluate(vae, images).negative_elbo == pytest.approx(expected, rel=0.02)


def test_the_networks_are_those_of_their_sources():
    sizes = {
        name: sum(p.numel() for p in f().parameters()) for name, f in contenders.NETWORKS.items()
    }
    assert sizes == {"mlp": 652_824, "conv": 69_989}


def test_ratios_compare_within_one_network_and_batch_size():
    rows = [
        {"contender": name, "network": "mlp", "batch_size": batch, "images_per_second": rate}
        | {"operations_per_image": 2.0}
        for batch in (128, 1024)
        for name, rate in (("PyTorch example", batch), ("vaelib, bfloat16", 3.0 * batch))
    ]
    add_ratios(rows, {"float32": 1024.0, "bfloat16": 4096.0})
    assert [row["ratio"] for row in rows] == [1, 3, 1, 3]
    assert [row["share_of_peak"] for row in rows] == [0.25, 0.1875, 2, 1.5]


def test_the_jobs_cover_what_is_compared():
    assert len(training_jobs("cpu")) == 2 * 2 * len(contenders.CONTENDERS)
    assert {job["what"] for job in growth_jobs("cpu")} == {
        "n",
        "batch_size",
        "latent_dim",
        "samples",
    }


def test_both_libraries_of_the_scoring_estimate_the_same(images):
    pytest.importorskip("pythae")
    vae = contenders.mlp_784_400_20()
    contenders.vaelib(vae, n=60, batch_size=20, epochs=20, device="cpu")
    theirs = jobs._pythae_estimate(vae.eval())(images[:5], 5000)
    ours = log_likelihood(vae, images[:5], k=5000)
    assert theirs == pytest.approx(ours.mean, abs=8 * ours.standard_error_of_mean[1])
