"""Models and data that several test files share."""

from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor

from vaelib import VAE, Bernoulli, Gaussian, MLPDecoder, MLPEncoder

SHAPE = (1, 4, 4)


@pytest.fixture
def images() -> Tensor:
    """Fifty binary 4x4 images: noisy copies of two patterns."""
    rng = torch.Generator().manual_seed(1)
    pattern = torch.zeros(2, *SHAPE)
    pattern[0, :, :2], pattern[1, :, :, :2] = 1, 1
    x = pattern[torch.randint(2, (50,), generator=rng)]
    flips = torch.rand(x.shape, generator=rng) < 0.1
    return torch.where(flips, 1 - x, x)


@pytest.fixture
def make_vae():
    """Factory of small VAEs for 4x4 images."""

    def make(*, latent_dim=2, hidden=(8,), image_shape=SHAPE, likelihood=None, seed=0, **options):
        sizes = {"latent_dim": latent_dim, "image_shape": image_shape, "seed": seed}
        return VAE(
            encoder=MLPEncoder(hidden=hidden, **sizes),
            decoder=MLPDecoder(hidden=hidden[::-1], **sizes),
            likelihood=likelihood or Bernoulli(),
            **options,
        )

    return make


@pytest.fixture
def rng_untouched():
    """Context in which the global random streams of torch and NumPy may not move."""

    @contextmanager
    def context():
        torch.manual_seed(20)
        np.random.seed(20)
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        yield
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(np.random.get_state()[1], before[1])

    return context


@pytest.fixture
def watch_bar(monkeypatch):
    """Function that hides the progress bar of a module and returns what the module asks of it."""

    def watch(module) -> dict:
        asked, tqdm = {}, module.tqdm

        def spy(*args, **kwargs):
            asked.update(kwargs)
            return tqdm(*args, **{**kwargs, "disable": True})

        monkeypatch.setattr(module, "tqdm", spy)
        return asked

    return watch


@pytest.fixture
def log_p_on_a_grid():
    """Function: log p(x) under a Bernoulli of a VAE with two units, by a sum over the plane."""

    @torch.no_grad()
    def log_p(vae: VAE, x: Tensor, *, points: int = 281) -> Tensor:
        side = torch.linspace(-7, 7, points, dtype=torch.float64)
        z = torch.cartesian_prod(side, side)
        logits = vae.decoder(z.to(vae.dtype)).flatten(1).double()
        log_likelihood = x.flatten(1).double() @ logits.T - F.softplus(logits).sum(1)
        log_prior = -0.5 * z.square().sum(1) - np.log(2 * np.pi)
        return (log_likelihood + log_prior).logsumexp(1) + 2 * (side[1] - side[0]).log()

    return log_p


class PPCA(NamedTuple):
    """Probabilistic PCA of real images, and the VAE that computes the same thing."""

    vae: VAE
    x: Tensor
    log_p: Tensor
    posterior_mean: Tensor
    posterior_std: Tensor


@pytest.fixture
def make_ppca():
    """Factory: the linear VAE of a fitted PCA, whose encoder gives the exact posterior.

    With W = U (L - s2)^(1/2) the matrix M = W'W + s2 I is diag(L), so that p(z | x) is
    N(L^-1 W'(x - m), diag(s2 / L)) (Tipping & Bishop 1999).
    """

    def make(latent_dim: int, dtype: torch.dtype = torch.float64) -> PPCA:
        x = load_digits().data / 16
        pca = PCA(latent_dim, svd_solver="full").fit(x)
        s2, eigenvalues = pca.noise_variance_, pca.explained_variance_
        w = torch.from_numpy(pca.components_.T * np.sqrt(eigenvalues - s2))
        m, eigenvalues = torch.from_numpy(pca.mean_), torch.from_numpy(eigenvalues)
        to_mean = w.T / eigenvalues[:, None]
        vae = VAE(
            encoder=MLPEncoder(latent_dim=latent_dim, hidden=(), image_shape=(1, 8, 8)),
            decoder=MLPDecoder(latent_dim=latent_dim, hidden=(), image_shape=(1, 8, 8)),
            likelihood=Gaussian(scale=float(np.sqrt(s2))),
        ).to(dtype)
        with torch.no_grad():
            (to_q,), (to_x,) = vae.encoder.layers, vae.decoder.layers
            to_q.weight.copy_(torch.cat((to_mean, torch.zeros_like(to_mean))))
            to_q.bias.copy_(torch.cat((-to_mean @ m, (s2 / eigenvalues).log())))
            to_x.weight.copy_(w)
            to_x.bias.copy_(m)
            vae.likelihood.log_scale.fill_(0.5 * np.log(s2))
        x64 = torch.from_numpy(x)
        return PPCA(
            vae,
            x64.to(dtype).view(-1, 1, 8, 8),
            torch.from_numpy(pca.score_samples(x)),
            (x64 - m) @ to_mean.T,
            (s2 / eigenvalues).sqrt(),
        )

    return make


@pytest.fixture(scope="module")
def browser():
    """Chromium without a network; its tests are skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    from book.check_book import OFFLINE, find_browser

    if not (executable := find_browser()):
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=[OFFLINE])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Open figures in a page; the test fails if a script does or if anything is asked for.

    What is opened has its HTML as ``page``. ``theme`` is that of the book, ``script`` runs before
    all others, ``column`` is the width of the text; other settings are a browser context's.
    """
    faults, contexts = [], []

    def go(*figures, theme: str = "", script: str = "", column: str = "none", **settings):
        file = tmp_path / "page.html"
        theme = f' data-theme="{theme}"' if theme else ""
        body = "".join(figure.page for figure in figures)
        file.write_text(
            f'<!doctype html><html lang="en"{theme}><head><meta charset="utf-8"><title>t</title>'
            '<meta name="viewport" content="width=device-width">'
            f"<style>body {{ max-width: {column} }}</style></head><body>{body}</body></html>",
            encoding="utf-8",
        )
        contexts.append(browser.new_context(**settings))
        contexts[-1].add_init_script(script)
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on(
            "request",
            lambda r: None if r.url.startswith((file.as_uri(), "data:")) else faults.append(r.url),
        )
        page.goto(file.as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert not faults
