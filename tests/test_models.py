import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from vaelib import VAE, Autoencoder, Bernoulli, Gaussian, MLPDecoder, MLPEncoder

SIZES = {"latent_dim": 2, "image_shape": (1, 4, 4)}


class ShowsItsCode(nn.Module):
    """A decoder whose image is the latent vector."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim, self.image_shape = latent_dim, (1, 1, latent_dim)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z[..., None, None, :]


def transparent_vae(latent_dim: int) -> VAE:
    decoder = ShowsItsCode(latent_dim)
    encoder = MLPEncoder(latent_dim=latent_dim, hidden=(), image_shape=decoder.image_shape)
    return VAE(encoder=encoder, decoder=decoder, likelihood=Gaussian())


@pytest.fixture
def autoencoder() -> Autoencoder:
    return Autoencoder(
        encoder=MLPEncoder(**SIZES), decoder=MLPDecoder(**SIZES), likelihood=Bernoulli()
    )


@pytest.mark.parametrize(
    ("scale", "sigma"),
    [
        ("exp", lambda r: (r / 2).exp()),
        ("softplus", lambda r: (1 + r.exp()).log()),
        ("linear", torch.abs),
    ],
)
def test_encode_gives_the_gaussian_of_the_encoder(make_vae, images, scale, sigma):
    vae = make_vae(scale=scale)
    mu, output = vae.encoder(images)
    q = vae.encode(images)
    torch.testing.assert_close(q.mean, mu)
    torch.testing.assert_close(q.stddev, sigma(output))


def test_decode_gives_the_likelihood_of_the_decoder(make_vae):
    z = torch.randn(3, 5, 2)
    p = make_vae().decode(z)
    assert (p.batch_shape, p.event_shape) == ((3, 5), (1, 4, 4))
    torch.testing.assert_close(p.mean, make_vae().decoder(z).sigmoid())


def test_embed_is_the_mean_and_draws_nothing(make_vae, images, rng_untouched):
    vae = make_vae()
    with rng_untouched():
        first, second = vae.embed(images), vae.embed(images)
    assert torch.equal(first, second)
    assert torch.equal(first, vae.encoder(images)[0])
    assert not first.requires_grad


def test_reconstruct_decodes_the_mean_and_draws_nothing(make_vae, images, rng_untouched):
    vae = make_vae()
    with rng_untouched():
        reconstructed = vae.reconstruct(images)
    expected = vae.decoder(vae.encoder(images)[0]).sigmoid()
    torch.testing.assert_close(reconstructed, expected.detach())
    assert not reconstructed.requires_grad


def test_an_autoencoder_encodes_and_reconstructs_without_noise(autoencoder, images):
    code = autoencoder.encoder(images)[0]
    assert torch.equal(autoencoder.encode(images), code)
    assert torch.equal(autoencoder.embed(images), code)
    assert autoencoder.encode(images).requires_grad
    assert not autoencoder.embed(images).requires_grad
    expected = autoencoder.decoder(code).sigmoid().detach()
    torch.testing.assert_close(autoencoder.reconstruct(images), expected)


def test_flat_and_square_images_are_the_same(make_vae, images):
    vae = make_vae()
    assert torch.equal(vae.as_images(images.flatten(1)), images)
    assert torch.equal(vae.embed(images.flatten(1)), vae.embed(images))


@pytest.mark.parametrize("steps", [2, 7])
def test_the_ends_of_an_interpolation_are_the_reconstructions(make_vae, images, steps):
    vae = make_vae()
    line = vae.interpolate(images[:1], images[1:2], steps=steps)
    assert line.shape == (steps, 1, 4, 4)
    torch.testing.assert_close(line[[0, -1]], vae.reconstruct(images[:2]))


def test_an_interpolation_is_a_straight_line_between_the_codes():
    vae = transparent_vae(3)
    start, end = torch.rand(2, 1, 1, 1, 3)
    line = vae.interpolate(start, end, steps=5)[:, 0, 0].numpy()
    ends = vae.embed(torch.cat((start, end))).numpy()
    np.testing.assert_allclose(line, np.linspace(*ends, 5), rtol=1e-5, atol=1e-6)


def test_an_interpolation_of_an_autoencoder_ends_at_its_reconstructions(autoencoder, images):
    line = autoencoder.interpolate(images[:1], images[1:2], steps=3)
    torch.testing.assert_close(line[::2], autoencoder.reconstruct(images[:2]))


@pytest.mark.parametrize("steps", [1, 0, -3])
def test_an_interpolation_needs_two_steps(make_vae, images, steps):
    with pytest.raises(ValueError, match=f"steps is {steps}; expected at least 2"):
        make_vae().interpolate(images[:1], images[1:2], steps=steps)


@pytest.mark.parametrize(("n_start", "n_end", "steps"), [(2, 2, 2), (1, 5, 5), (3, 1, 10)])
def test_an_interpolation_has_one_image_at_each_end(make_vae, images, n_start, n_end, steps):
    with pytest.raises(ValueError, match="one image"):
        make_vae().interpolate(images[:n_start], images[:n_end], steps=steps)


def test_samples_are_decoded_from_the_standard_normal():
    n = 20_000
    z = transparent_vae(3).sample(n, generator=torch.Generator().manual_seed(0)).flatten(1)
    assert z.shape == (n, 3)
    for d in range(3):
        assert stats.kstest(z[:, d], stats.norm.cdf).pvalue > 0.001
    assert (torch.corrcoef(z.T) - torch.eye(3)).abs().max() < 4 / n**0.5


def test_samples_are_means_of_the_likelihood(make_vae):
    vae = make_vae()
    sample = vae.sample(6, generator=torch.Generator().manual_seed(3))
    z = torch.randn(6, 2, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(sample, vae.decoder(z).sigmoid().detach())
    assert not sample.requires_grad


def test_samples_depend_on_the_generator_only(make_vae, rng_untouched):
    vae = make_vae()
    one, two, other = (torch.Generator().manual_seed(s) for s in (0, 0, 1))
    with rng_untouched():
        first = vae.sample(4, generator=one)
    assert torch.equal(first, vae.sample(4, generator=two))
    assert not torch.equal(first, vae.sample(4, generator=other))


def test_samples_without_a_generator_follow_the_global_stream(make_vae):
    vae = make_vae()
    torch.manual_seed(5)
    sample = vae.sample(4)
    assert torch.equal(sample, vae.sample(4, generator=torch.Generator().manual_seed(5)))


def test_a_sample_has_at_least_one_image(make_vae):
    with pytest.raises(ValueError, match="n is 0; expected at least 1"):
        make_vae().sample(0)


@pytest.mark.parametrize("method", ["sample", "interpolate", "reconstruct"])
def test_a_model_in_double_precision_works(make_vae, images, method):
    vae, x = make_vae().double(), images.double()
    arguments = {"sample": (3,), "interpolate": (x[:1], x[1:2]), "reconstruct": (x,)}
    assert getattr(vae, method)(*arguments[method]).dtype == torch.float64


@pytest.mark.parametrize("network", ["encoder", "decoder"])
def test_densities_are_computed_in_full_precision_under_autocast(make_vae, images, network):
    vae = make_vae()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = (*vae.encoder(images), vae.decoder(torch.zeros(1, 2)))
        q, p = vae.encode(images), vae.decode(torch.zeros(1, 2))
    assert {out.dtype for out in outputs} == {torch.bfloat16}  # the networks are in half
    assert {q.mu.dtype, q.logvar.dtype, p.mean.dtype} == {torch.float32}


def test_integer_images_are_refused(make_vae, images):
    with pytest.raises(
        TypeError, match=r"images are torch.uint8; expected floating point.*to_float"
    ):
        make_vae().encode(images.to(torch.uint8))


def test_images_that_are_no_tensor_are_refused(make_vae, images):
    with pytest.raises(TypeError, match=r"images are a ndarray; expected a torch.Tensor"):
        make_vae().encode(images.numpy())


@pytest.mark.parametrize(
    "shape", [(16,), (1, 4, 4), (3, 4, 4), (3, 1, 4, 5), (3, 15), (3, 2, 4, 4)]
)
def test_images_of_a_wrong_shape_are_refused(make_vae, shape):
    message = (
        rf"images have shape \[{', '.join(map(str, shape))}\]; expected \[B, 1, 4, 4\] or \[B, 16\]"
    )
    with pytest.raises(ValueError, match=message):
        make_vae().encode(torch.zeros(shape))


def test_a_scalar_is_no_image(make_vae):
    with pytest.raises(ValueError, match="images have shape"):
        make_vae().encode(torch.tensor(0.5))


def test_latent_vectors_of_a_wrong_size_are_refused(make_vae):
    with pytest.raises(ValueError, match=r"z has shape \[4, 3\]; expected \[..., 2\]"):
        make_vae().decode(torch.zeros(4, 3))


def test_an_unknown_scale_is_named(make_vae):
    with pytest.raises(
        ValueError, match="scale is 'tanh'; expected one of exp, capped, softplus, linear"
    ):
        make_vae(scale="tanh")


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (
            MLPDecoder(latent_dim=3, image_shape=(1, 4, 4)),
            "latent_dim: the encoder has 2, the decoder 3",
        ),
        (
            MLPDecoder(latent_dim=2),
            r"image_shape: the encoder has \(1, 4, 4\), the decoder \(1, 28, 28\)",
        ),
    ],
)
@pytest.mark.parametrize("model", [VAE, Autoencoder])
def test_an_encoder_and_a_decoder_that_do_not_fit_are_refused(model, decoder, message):
    with pytest.raises(ValueError, match=message):
        model(encoder=MLPEncoder(**SIZES), decoder=decoder, likelihood=Bernoulli())


def test_the_device_is_that_of_the_weights(make_vae):
    assert make_vae().device == torch.device("cpu")
    assert make_vae().to("meta").device == torch.device("meta")


def test_the_scale_of_an_extreme_encoder_output_stays_finite(make_vae, images):
    vae = make_vae()
    with torch.no_grad():
        vae.encoder.layers[-1].weight.zero_()
        vae.encoder.layers[-1].bias.copy_(torch.tensor([0.0, 0.0, -60.0, 60.0]))
    q = vae.encode(images)
    torch.testing.assert_close(q.stddev[0], torch.tensor([math.exp(-30), math.exp(30)]))
    assert q.entropy().isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_model_on_the_gpu_computes_the_same(make_vae, images):
    vae, on_gpu = make_vae(), make_vae().cuda()
    assert on_gpu.device.type == "cuda"
    torch.testing.assert_close(on_gpu.reconstruct(images.cuda()).cpu(), vae.reconstruct(images))
    ends = images[:1].cuda(), images[1:2].cuda()
    assert on_gpu.interpolate(*ends).device.type == "cuda"
    assert on_gpu.sample(3, generator=torch.Generator("cuda").manual_seed(0)).shape == (3, 1, 4, 4)
