import math
import re
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vaelib.corruption import RandomBinarization
from vaelib.networks import (
    ConvDecoder,
    ConvEncoder,
    MLPDecoder,
    MLPEncoder,
    check_sizes,
    count_parameters,
    initialize,
    mlp,
)

NETWORKS = (MLPEncoder, MLPDecoder, ConvEncoder, ConvDecoder)


def linear_parameters(widths: list[int]) -> int:
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(widths))


def test_parameters_of_the_mlps():
    encoder = MLPEncoder(latent_dim=5, hidden=(30, 20))
    decoder = MLPDecoder(latent_dim=5, hidden=(20, 30))
    assert count_parameters(encoder) == linear_parameters([784, 30, 20, 10])
    assert count_parameters(decoder) == linear_parameters([5, 20, 30, 784])


def test_parameters_of_the_convolutional_networks():
    encoder = ConvEncoder(latent_dim=3, channels=(4, 5))
    decoder = ConvDecoder(latent_dim=3, channels=(4, 5, 6))
    convolutions = (1 * 9 + 1) * 4 + (4 * 9 + 1) * 5
    assert count_parameters(encoder) == convolutions + (5 * 6 * 6 + 1) * 6
    transposed = (4 * 9 + 1) * 5 + (5 * 9 + 1) * 6 + (6 * 9 + 1) * 1
    assert count_parameters(decoder) == (3 + 1) * 4 * 7 * 7 + transposed


@pytest.mark.parametrize("hidden", [(), (9,), (9, 7)])
@pytest.mark.parametrize(
    ("channels", "padding", "side"),
    [
        ((4,), 0, 13),
        ((4, 5), 0, 6),
        ((4, 5, 6), 0, 2),
        ((4,), 1, 14),
        ((4, 5), 1, 7),
        ((4, 5, 6), 1, 4),
    ],
)
def test_parameters_of_every_convolutional_encoder(channels, padding, side, hidden):
    encoder = ConvEncoder(latent_dim=3, channels=channels, hidden=hidden, padding=padding)
    convolutions = sum((9 * a + 1) * b for a, b in pairwise((1, *channels)))
    dense = linear_parameters([channels[-1] * side * side, *hidden, 6])
    assert count_parameters(encoder) == convolutions + dense


@pytest.mark.parametrize("hidden", [(), (9,), (9, 7)])
@pytest.mark.parametrize("channels", [(4, 5), (4, 5, 6)])
def test_parameters_of_every_convolutional_decoder(channels, hidden):
    decoder = ConvDecoder(latent_dim=3, channels=channels, hidden=hidden)
    transposed = sum((9 * a + 1) * b for a, b in pairwise((*channels, 1)))
    dense = linear_parameters([3, *hidden, channels[0] * 49])
    assert count_parameters(decoder) == dense + transposed


def test_the_convolutional_pair_has_the_size_of_the_tensorflow_tutorial():
    pair = ConvEncoder(latent_dim=2), ConvDecoder(latent_dim=2)
    assert sum(map(count_parameters, pair)) == 69_989


def test_count_parameters_leaves_out_what_is_frozen():
    network = nn.Linear(3, 2)
    network.bias.requires_grad_(False)
    assert count_parameters(network) == 6


def test_the_mlp_encoder_is_its_formula():
    encoder = MLPEncoder(latent_dim=2, hidden=(7, 6), image_shape=(1, 4, 5), seed=3)
    x = torch.rand(9, 1, 4, 5)
    (w1, b1), (w2, b2), (w3, b3) = ((m.weight, m.bias) for m in encoder.layers[::2])
    h = (x.reshape(9, 20) @ w1.T + b1).clamp(min=0)
    h = (h @ w2.T + b2).clamp(min=0)
    mu, scale = encoder(x)
    torch.testing.assert_close(mu, h @ w3[:2].T + b3[:2])
    torch.testing.assert_close(scale, h @ w3[2:].T + b3[2:])


def test_the_mlp_decoder_is_its_formula():
    decoder = MLPDecoder(latent_dim=2, hidden=(6,), image_shape=(3, 4, 5), activation=nn.Tanh)
    z = torch.randn(9, 2)
    (w1, b1), (w2, b2) = ((m.weight, m.bias) for m in decoder.layers[::2])
    expected = (z @ w1.T + b1).tanh() @ w2.T + b2
    torch.testing.assert_close(decoder(z), expected.reshape(9, 3, 4, 5))


@pytest.mark.parametrize("network", [MLPEncoder, MLPDecoder])
def test_without_hidden_layers_the_network_is_one_linear_layer(network):
    layers = network(latent_dim=2, hidden=()).layers
    assert [type(layer) for layer in layers] == [nn.Linear]


def test_the_convolutional_encoder_is_its_formula():
    encoder = ConvEncoder(latent_dim=2, channels=(3, 4))
    x = torch.rand(5, 1, 28, 28)
    c1, c2, out = encoder.layers[0], encoder.layers[2], encoder.layers[5]
    h = F.conv2d(x, c1.weight, c1.bias, stride=2).relu()
    h = F.conv2d(h, c2.weight, c2.bias, stride=2).relu()
    assert h.shape == (5, 4, 6, 6)
    mu, scale = (h.reshape(5, -1) @ out.weight.T + out.bias).split(2, dim=1)
    torch.testing.assert_close(encoder(x), (mu, scale))


def test_the_convolutional_decoder_is_its_formula():
    decoder = ConvDecoder(latent_dim=2, channels=(3, 4, 5))
    z = torch.randn(6, 2)
    first, c1, c2, c3 = (m for m in decoder.layers if hasattr(m, "weight"))
    h = (z @ first.weight.T + first.bias).relu().reshape(6, 3, 7, 7)
    doubling = {"stride": 2, "padding": 1, "output_padding": 1}
    h = F.conv_transpose2d(h, c1.weight, c1.bias, **doubling).relu()
    h = F.conv_transpose2d(h, c2.weight, c2.bias, **doubling).relu()
    h = F.conv_transpose2d(h, c3.weight, c3.bias, padding=1)
    torch.testing.assert_close(decoder(z), h)
    assert h.shape == (6, 1, 28, 28)


@pytest.mark.parametrize(("padding", "side"), [(0, 2), (1, 4)])
def test_the_convolutional_encoder_with_three_channels_and_hidden_layers_is_its_formula(
    padding, side
):
    encoder = ConvEncoder(
        latent_dim=2, channels=(3, 4, 5), hidden=(7, 6), padding=padding, activation=nn.Tanh
    )
    x = h = torch.rand(5, 1, 28, 28)
    *convolutions, first, second, out = (m for m in encoder.layers if hasattr(m, "weight"))
    assert len(convolutions) == 3
    for layer in convolutions:
        h = F.conv2d(h, layer.weight, layer.bias, stride=2, padding=padding).tanh()
    assert h.shape == (5, 5, side, side)
    h = (h.reshape(5, -1) @ first.weight.T + first.bias).tanh()
    h = (h @ second.weight.T + second.bias).tanh()
    mu, scale = (h @ out.weight.T + out.bias).split(2, dim=1)
    torch.testing.assert_close(encoder(x), (mu, scale))


@pytest.mark.parametrize(("padding", "side"), [(0, 13), (1, 14)])
def test_the_convolutional_encoder_with_one_channel_is_its_formula(padding, side):
    encoder = ConvEncoder(latent_dim=2, channels=(3,), padding=padding)
    x = torch.rand(5, 1, 28, 28)
    layer, out = (m for m in encoder.layers if hasattr(m, "weight"))
    h = F.conv2d(x, layer.weight, layer.bias, stride=2, padding=padding).relu()
    assert h.shape == (5, 3, side, side)
    mu, scale = (h.reshape(5, -1) @ out.weight.T + out.bias).split(2, dim=1)
    torch.testing.assert_close(encoder(x), (mu, scale))


def test_the_convolutional_decoder_with_two_channels_and_hidden_layers_is_its_formula():
    decoder = ConvDecoder(latent_dim=2, hidden=(7, 6), channels=(3, 4), activation=nn.Tanh)
    z = torch.randn(5, 2)
    first, second, third, c1, c2 = (m for m in decoder.layers if hasattr(m, "weight"))
    h = (z @ first.weight.T + first.bias).tanh()
    h = (h @ second.weight.T + second.bias).tanh()
    h = (h @ third.weight.T + third.bias).tanh().reshape(5, 3, 7, 7)
    doubling = {"stride": 2, "padding": 1, "output_padding": 1}
    h = F.conv_transpose2d(h, c1.weight, c1.bias, **doubling).tanh()
    h = F.conv_transpose2d(h, c2.weight, c2.bias, **doubling)
    torch.testing.assert_close(decoder(z), h)
    assert h.shape == (5, 1, 28, 28)


@pytest.mark.parametrize(
    "network",
    [MLPDecoder, ConvDecoder, partial(ConvDecoder, hidden=(6,), channels=(3, 4))],
    ids=["mlp", "conv", "conv-two-channels"],
)
def test_a_decoder_with_sample_axes_equals_a_loop(network):
    decoder = network(latent_dim=2)
    z = torch.randn(2, 3, 4, 2)
    looped = torch.stack([torch.stack([decoder(zij) for zij in zi]) for zi in z])
    assert looped.shape == (2, 3, 4, 1, 28, 28)
    torch.testing.assert_close(decoder(z), looped, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", [MLPDecoder, ConvDecoder])
def test_a_decoder_takes_a_single_latent_vector(network):
    decoder = network(latent_dim=2)
    z = torch.randn(2)
    assert decoder(z).shape == (1, 28, 28)
    torch.testing.assert_close(decoder(z), decoder(z[None])[0])


@pytest.mark.parametrize("network", [MLPEncoder, ConvEncoder])
def test_the_encoder_sees_the_corrupted_image(network):
    class Negative(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1 - x

    plain, corrupted = network(latent_dim=2), network(latent_dim=2, corruption=Negative())
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(corrupted(x), plain(1 - x))
    assert count_parameters(corrupted) == count_parameters(plain)


@pytest.mark.parametrize("network", [MLPEncoder, ConvEncoder])
def test_the_image_is_corrupted_only_while_training(network):
    encoder, x = network(latent_dim=2, corruption=RandomBinarization()), torch.rand(3, 1, 28, 28)
    torch.manual_seed(0)
    found = encoder(x)
    torch.manual_seed(0)
    seen = (torch.rand_like(x) < x).float()
    encoder.eval()
    torch.testing.assert_close(found, encoder(seen))
    torch.testing.assert_close(encoder(x), network(latent_dim=2)(x))
    assert (found[0] - encoder(x)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("network", [MLPEncoder, ConvEncoder])
def test_a_corruption_has_no_part_in_the_names_of_the_weights(network):
    corrupted = network(latent_dim=2, corruption=RandomBinarization())
    assert corrupted.state_dict().keys() == network(latent_dim=2).state_dict().keys()


@pytest.mark.parametrize("network", NETWORKS)
def test_the_seed_fixes_the_weights(network):
    torch.manual_seed(0)
    one = network(latent_dim=3, seed=5)
    torch.manual_seed(1)
    same, other = network(latent_dim=3, seed=5), network(latent_dim=3, seed=6)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
        assert "bias" in name or not torch.equal(weight, other.state_dict()[name])


@pytest.mark.parametrize("network", NETWORKS)
def test_building_a_network_leaves_the_global_stream_alone(network, rng_untouched):
    with rng_untouched():
        network(latent_dim=3)


def test_encoder_and_decoder_of_one_seed_draw_different_weights():
    encoder = MLPEncoder(latent_dim=2, hidden=(), image_shape=(1, 2, 2))
    decoder = MLPDecoder(latent_dim=4, hidden=(), image_shape=(1, 2, 2))
    assert not torch.equal(encoder.layers[0].weight, decoder.layers[0].weight)


@pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out"),
    [
        (nn.Linear(300, 200), 300, 200),
        (nn.Conv2d(20, 40, 5), 20 * 25, 40 * 25),
        (nn.ConvTranspose2d(20, 40, 5), 20 * 25, 40 * 25),
    ],
)
def test_weights_are_glorot_uniform_and_biases_zero(layer, fan_in, fan_out):
    initialize(layer, "glorot", torch.Generator().manual_seed(0))
    bound, n = math.sqrt(6 / (fan_in + fan_out)), layer.weight.numel()
    assert layer.bias.eq(0).all()
    assert 0.99 * bound < layer.weight.abs().max() <= bound
    # The variance of a uniform is bound^2 / 3, that of its square 4 bound^4 / 45.
    tolerance = 4 * math.sqrt(4 / 45 / n) * bound**2
    assert layer.weight.square().mean().item() == pytest.approx(bound**2 / 3, abs=tolerance)


def test_he_keeps_the_signal_alive_where_glorot_lets_it_fade():
    # He et al. (2015): variance 2 / fan_in before a ReLU, 1 / fan_in in the last, linear layer.
    network = MLPDecoder(latent_dim=300, hidden=(400, 500), image_shape=(1, 20, 30), init="he")
    layers = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
    for layer, gain in zip(layers, (2, 2, 1), strict=True):
        n = layer.weight.numel()
        scaled = layer.weight * math.sqrt(layer.in_features / gain)
        assert scaled.var().item() == pytest.approx(1, abs=5 * math.sqrt(2 / n))
        assert layer.bias.eq(0).all()
    z = torch.randn(200, 300, generator=torch.Generator().manual_seed(0))
    assert network(z).var().item() == pytest.approx(1, rel=0.15)


def test_an_unknown_initialisation_is_named():
    with pytest.raises(ValueError, match="init is 'zeros'; expected 'glorot' or 'he'"):
        MLPEncoder(latent_dim=2, init="zeros")


def test_every_layer_of_a_network_is_initialised():
    for network in NETWORKS:
        biases = [p for name, p in network(latent_dim=2).named_parameters() if "bias" in name]
        assert all(bias.eq(0).all() for bias in biases)


def test_two_networks_from_one_list_leave_the_list_alone():
    hidden = [7, 5]
    first = MLPEncoder(latent_dim=2, hidden=hidden)
    MLPDecoder(latent_dim=2, hidden=hidden)
    second = MLPEncoder(latent_dim=2, hidden=hidden)
    assert hidden == [7, 5]
    assert str(first) == str(second)
    assert [m.out_features for m in first.layers[::2]] == [7, 5, 4]


def test_mlp_puts_an_activation_between_layers_and_none_at_the_end():
    kinds = [type(layer) for layer in mlp([3, 4, 5, 6], nn.SiLU)]
    assert kinds == [nn.Linear, nn.SiLU, nn.Linear, nn.SiLU, nn.Linear]


@pytest.mark.parametrize("network", [MLPEncoder, MLPDecoder])
def test_networks_know_their_sizes(network):
    built = network(latent_dim=4, image_shape=[3, 5, 6])
    assert (built.latent_dim, built.image_shape) == (4, (3, 5, 6))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("latent_dim", [0, -1, 2.0, True, "2"])
def test_a_bad_latent_size_is_named(network, latent_dim):
    with pytest.raises(ValueError, match=r"latent_dim: got .*whole number >= 1"):
        network(latent_dim=latent_dim)


@pytest.mark.parametrize("hidden", [(0,), (8, -2), (8.0,), (True,)])
def test_a_bad_hidden_size_is_named(hidden):
    for network in NETWORKS:
        with pytest.raises(ValueError, match=r"hidden layers: got .*whole number >= 1"):
            network(latent_dim=2, hidden=hidden)


@pytest.mark.parametrize(
    ("network", "channels", "expected"),
    [
        (ConvEncoder, (), "one to three numbers"),
        (ConvEncoder, (8, 8, 8, 8), "one to three numbers"),
        (ConvDecoder, (), "two or three numbers"),
        (ConvDecoder, (32,), "two or three numbers"),
        (ConvDecoder, (8, 8, 8, 8), "two or three numbers"),
    ],
)
def test_a_wrong_number_of_channels_is_named(network, channels, expected):
    with pytest.raises(ValueError, match=rf"channels is {re.escape(str(channels))}.*{expected}"):
        network(latent_dim=2, channels=channels)


@pytest.mark.parametrize("network", [ConvEncoder, ConvDecoder])
@pytest.mark.parametrize("channels", [(8, 0), (8.0, 8), (-1, 8, 8)])
def test_a_bad_number_of_channels_is_named(network, channels):
    with pytest.raises(ValueError, match=r"got .*whole number >= 1"):
        network(latent_dim=2, channels=channels)


@pytest.mark.parametrize("padding", [True, 2, -1, 0.5, "same", None])
def test_a_bad_padding_is_named(padding):
    with pytest.raises(ValueError, match=rf"padding {padding!r}; expected .* a padding of 0 or 1"):
        ConvEncoder(latent_dim=2, padding=padding)


@pytest.mark.parametrize("image_shape", [(28, 28), (1, 0, 28), (1, 28, 28, 1)])
def test_a_bad_image_shape_is_named(image_shape):
    with pytest.raises(ValueError, match=r"image_shape: got"):
        MLPDecoder(latent_dim=2, image_shape=image_shape)


def test_check_sizes_accepts_what_is_right():
    assert check_sizes(latent_dim=1, hidden=[], image_shape=(1, 1, 1)) is None
