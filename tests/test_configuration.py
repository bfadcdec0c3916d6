import json
import math
from dataclasses import fields, replace
from typing import get_args, get_type_hints

import pytest
from torch import nn

from vaelib.configuration import Configuration, ConfigurationError
from vaelib.course.lesson_1 import live_training, two_dimensional_vae
from vaelib.course.lesson_2 import vae_128d
from vaelib.likelihoods import Gaussian
from vaelib.posteriors import SCALES
from vaelib.recipes import DEFAULT, RECIPES
from vaelib.runs import build, recipe_of
from vaelib.schedules import warmup_cosine


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epochs", 0, r"epochs is 0; expected at least 1 and at most"),
        ("epochs", 2.0, r"epochs is 2.0; expected a whole number"),
        ("epochs", True, r"epochs is True; expected a whole number"),
        ("batch_size", "64", r"batch_size is '64'; expected a whole number"),
        ("latent_dim", 10**7, r"latent_dim is 10000000; expected at least 1 and at most"),
        ("encoder_hidden", [8, 0], r"encoder_hidden is 0; expected at least 1"),
        ("encoder_hidden", 8, r"encoder_hidden is 8; expected whole numbers in a list"),
        ("encoder_hidden", [True], r"encoder_hidden is \[True\]; expected whole numbers"),
        ("encoder_channels", [8] * 4, r"number of encoder_channels is 4; expected at least 1 and"),
        ("decoder_channels", [8], r"number of decoder_channels is 1; expected at least 2"),
        ("network", "gru", r"network is 'gru'; expected one of mlp, conv"),
        ("encoder_padding", 2, r"encoder_padding is 2; expected at least 0 and at most 1"),
        ("likelihood", None, r"likelihood is None; expected one of bernoulli"),
        ("lr", 0, r"lr is 0.0; expected larger than 0"),
        ("lr", math.nan, r"lr is nan; expected larger than 0 and finite"),
        ("lr", 10**400, r"lr is 1000.*; expected a number"),
        ("beta", -1, r"beta is -1.0; expected at least 0 and finite"),
        ("beta", math.inf, r"beta is inf; expected at least 0 and finite"),
        ("sigma", 0.0, r"sigma is 0.0; expected larger than 0"),
        ("seed", -1, r"seed is -1; expected at least 0"),
        ("learn_sigma", 1, r"learn_sigma is 1; expected true or false"),
        ("data", "", r"data is ''; expected a data set or a path"),
        ("data", "a\0b", r"expected a data set or a path"),
        ("data", 5, r"data is 5; expected a text"),
    ],
)
def test_what_cannot_be_is_refused_by_name_however_it_comes(key, value, message, tmp_path):
    with pytest.raises(ConfigurationError, match=message):
        Configuration(**{key: value})
    file = tmp_path / "c.json"
    file.write_text(json.dumps({key: value}))
    with pytest.raises(ConfigurationError, match=rf"c\.json: .*{message}"):
        Configuration.read(file)


def test_an_unknown_key_is_named_with_those_that_are_known(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("learning_rate = 0.1\n")
    with pytest.raises(ConfigurationError, match=r"c\.toml.*'learning_rate'.*some of data, .*lr"):
        Configuration.read(file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", b"{", "damaged or no JSON"),
        ("c.toml", b"a = = 1", "damaged or no TOML"),
        ("c.json", b"\xff\xfe", "damaged or no JSON"),
        ("c.json", b"[" * 90_000, "damaged or no JSON"),
        ("c.json", b"[]", "is a list; expected keys"),
        ("c.json", b" " * 100_001, "more than 100,000 bytes"),
        ("c.json", None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path, name, content, message):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message) as error:
        Configuration.read(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_configuration_comes_back_from_json_and_toml(tmp_path, recipe):
    file = tmp_path / "c.json"
    file.write_text(json.dumps(recipe.as_dict()))
    assert Configuration.read(file) == recipe
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in recipe.as_dict().items()]
    file = tmp_path / "c.toml"
    file.write_text("".join(lines))
    assert Configuration.read(file) == recipe


def test_every_field_is_described():
    documented = Configuration.__doc__.partition("Parameters\n")[2]
    for field in fields(Configuration):
        assert f"\n    {field.name}\n" in documented


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"latent_dim": 7, "encoder_hidden": (), "decoder_hidden": (5,)},
        {"network": "conv"},
        {"network": "conv", "encoder_channels": (4, 5, 6), "decoder_channels": (7, 8)},
        {"network": "conv", "encoder_channels": (4, 5, 6), "encoder_padding": 1},
        {"network": "conv-mlp", "encoder_channels": (4, 5), "encoder_padding": 1},
        {"network": "conv", "encoder_channels": (4,), "encoder_hidden": (), "decoder_hidden": ()},
    ],
)
def test_the_weights_are_counted_before_they_are_made(change):
    config = Configuration(**change)
    weights = [p.numel() for p in build(config).parameters() if p.dim() > 1]
    assert config.count_parameters() == sum(weights)


@pytest.mark.parametrize(
    "change",
    [
        {"encoder_hidden": [10**6, 10**6]},
        {"latent_dim": 10**6},
        {"network": "conv", "encoder_channels": [10**6, 10**6]},
        {"network": "conv", "decoder_channels": [10**6] * 3},
        {"encoder_hidden": [10**4] * 10},
    ],
)
def test_networks_that_would_fill_the_memory_are_refused(change):
    with pytest.raises(ConfigurationError, match="weights; expected at most 30,000,000"):
        Configuration(**change)


def test_the_choices_are_those_of_the_modules_that_need_torch():
    assert set(get_args(get_type_hints(Configuration)["scale"])) <= SCALES.keys()


# The recipes are the book's


def equal(one: nn.Module, two: nn.Module) -> bool:
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)


def test_the_default_recipe_is_that_of_chapter_1():
    assert next(iter(RECIPES)) == DEFAULT
    config, truth = RECIPES[DEFAULT], two_dimensional_vae(seed=3)
    model = build(replace(config, seed=3))
    assert str(model) == str(truth) and model.scale == truth.scale and equal(model, truth)
    ours, theirs = recipe_of(config, None), live_training()
    lr, its_lr = ours.pop("lr"), theirs.pop("lr")
    assert [lr(t / 9) for t in range(9)] == [its_lr(t / 9) for t in range(9)]
    assert {name: ours[name] for name in theirs} == theirs


@pytest.mark.parametrize(
    ("name", "likelihood", "epochs", "batch_size"),
    [
        ("128d-bernoulli", None, 40, 100),
        ("128d-gaussian", Gaussian(link="logit", scale=0.1, learned=True), 20, 128),
    ],
)
def test_the_other_recipes_are_those_of_chapter_2(name, likelihood, epochs, batch_size):
    config, truth = RECIPES[name], vae_128d(likelihood)
    model = build(config)
    assert str(model) == str(truth) and model.scale == truth.scale and equal(model, truth)
    recipe = recipe_of(config, None)
    assert (recipe["epochs"], recipe["batch_size"]) == (epochs, batch_size)
    assert [recipe["lr"](t / 9) for t in range(9)] == [warmup_cosine(2e-3)(t / 9) for t in range(9)]
    assert recipe["beta"](0.1) == 1 and recipe["weight_decay"] == 0 and recipe["objective"] is None
