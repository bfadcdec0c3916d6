"""Objectives that see labels: a supervised loss on the codes, beside the bound or alone.

A supervised loss maps codes ``[B, D]`` and labels ``[B]`` to a scalar, for example
:func:`vaelib.triplet.triplet_loss`. Labels are used in training only: measure with
:func:`vaelib.objectives.elbo`, which knows of none.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaelib.models import VAE
from vaelib.objectives import ELBO, Objective, kl_to_standard_normal, posterior_sample
from vaelib.validation import check_count

SupervisedLoss = Callable[[Tensor, Tensor], Tensor]


def elbo_with_labels(
    loss: SupervisedLoss,
    weight: float,
    *,
    on: str = "sample",
    labelled: tuple[Tensor, Tensor] | None = None,
    labelled_batch: int = 256,
) -> Objective:
    r"""Return an objective that adds a supervised loss on the codes to the bound.

    .. math:: \text{distortion} + \beta\,\text{rate} + \text{weight}\cdot\text{loss}

    With the triplet loss it is the triplet VAE of Ishfaq et al. (2018).

    Parameters
    ----------
    loss
        The supervised loss.
    weight
        Its weight, at least 0.
    on
        Whether it sees a ``"sample"`` of q(z | x) or its ``"mean"``.
    labelled
        Images ``[N, C, H, W]`` and labels ``[N]``, on the device of the model, if only few
        images have labels; they are used as they are, without checks and augmentation. By
        default all have: :func:`vaelib.training.fit` is given ``labels``.
    labelled_batch
        How many of the few are drawn for each step; all of them if there are fewer.
    """
    _check_on(on)
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight is {weight!r}; expected a finite number, at least 0.")
    check_count("labelled_batch", labelled_batch)
    if labelled is not None and not 0 < len(labelled[0]) == len(labelled[1]):
        raise ValueError(
            f"labelled has {len(labelled[0])} images and {len(labelled[1])} labels; expected "
            "at least one image, and one label each."
        )

    def objective(
        model: VAE,
        x: Tensor,
        *,
        labels: Tensor | None = None,
        noise: Tensor | None = None,
        validate: bool = True,
    ) -> ELBO:
        x, q, z = posterior_sample(model, x, noise, validate)
        distortion = -model.decode(z).log_prob(x)
        rate = kl_to_standard_normal(q.mu, q.logvar).sum(-1)
        if labelled is not None:
            # Drawn from the global stream, which fit() makes its own for every epoch.
            few, their_labels = (part.to(x.device) for part in labelled)
            drawn = torch.randperm(len(few), device=x.device)[:labelled_batch]
            labels = their_labels[drawn]
            _, q, z = posterior_sample(model, few[drawn], None, validate)
        codes = z if on == "sample" else q.mu
        return ELBO(distortion + weight * loss(codes, _given(labels)), rate)

    return objective


def labels_alone(loss: SupervisedLoss, *, on: str = "sample") -> Objective:
    """Return an objective that is a supervised loss on the codes and nothing else.

    The decoder gets no gradient. Parameters as in :func:`elbo_with_labels`.
    """
    _check_on(on)

    def objective(
        model: VAE,
        x: Tensor,
        *,
        labels: Tensor | None = None,
        noise: Tensor | None = None,
        validate: bool = True,
    ) -> ELBO:
        _, q, z = posterior_sample(model, x, noise, validate)
        value = loss(z if on == "sample" else q.mu, _given(labels))
        return ELBO(value.expand(len(x)), torch.zeros(len(x), device=x.device))

    return objective


def classification_loss(head: nn.Module) -> SupervisedLoss:
    """Return the cross entropy, in nats, of a classifier ``[B, D]`` -> ``[B, classes]`` on codes.

    To be trained, the head must be a part of the model: ``vae.add_module("head", head)``.
    """
    return lambda codes, labels: F.cross_entropy(head(codes), labels)


def _given(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ValueError("there are no labels; expected those of the batch: fit(labels=...).")
    return labels


def _check_on(on: str) -> None:
    if on not in ("sample", "mean"):
        raise ValueError(f"on is {on!r}; expected sample or mean.")
