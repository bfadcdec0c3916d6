from itertools import pairwise

import torch
from torch import nn

from vaelib.corruption import RandomBinarization
from vaelib.course import lesson_1
from vaelib.networks import count_parameters


def test_the_two_dimensional_vae_has_the_size_that_the_chapter_states():
    widths = [784, 256, 256, 256, 4], [2, 128, 128, 128, 256, 784]
    weights = sum(a * b + b for w in widths for a, b in pairwise(w))
    assert count_parameters(lesson_1.two_dimensional_vae()) == weights == 601_492


def test_only_the_full_profile_corrupts_the_input():
    full, quick = (lesson_1.two_dimensional_vae(p).encoder.corruption for p in ("full", "quick"))
    assert isinstance(full, RandomBinarization)
    assert isinstance(quick, nn.Identity)


def test_an_image_that_overshoots_keeps_a_finite_rate():
    vae = lesson_1.two_dimensional_vae()
    nn.init.constant_(vae.encoder.layers[-1].bias, 1000.0)
    assert vae.encode(torch.rand(3, 784)).logvar.eq(2).all()


def test_the_learning_rate_rises_for_a_tenth_of_the_training_and_ends_at_zero():
    lr = lesson_1.two_dimensional_training()["lr"]
    assert [lr(p) for p in (0, 0.05, 0.1)] == [0, 0.002, 0.004]
    assert lr(1.0) < 1e-12


def test_the_live_training_shares_all_but_length_and_learning_rate_with_the_published_one():
    live, published = lesson_1.live_training(), lesson_1.two_dimensional_training()
    assert live["epochs"] < published["epochs"]
    assert live["lr"](0.1) == 0.006
    shared = live.keys() - {"epochs", "lr"}
    assert {k: live[k] for k in shared} == {k: published[k] for k in shared}


def test_the_code_of_exercise_5_is_a_single_number():
    vae = lesson_1.line_vae()
    assert vae.encode(torch.rand(3, 784)).mu.shape == (3, 1)
    assert vae.decode(torch.zeros(3, 1)).mean.shape == (3, 1, 28, 28)
