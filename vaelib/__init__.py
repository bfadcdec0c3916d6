"""vaelib: the small package behind the book on variational autoencoders.

Data, networks, likelihoods, models, objectives, training, evaluation and figures, one concept in
each module. Losses are per image and in nats; they are averaged once, where they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

import vaelib.threads  # noqa: F401  first of all: torch reads once what this sets

if TYPE_CHECKING:
    from vaelib.evaluation import evaluate, log_likelihood
    from vaelib.likelihoods import Bernoulli, Gaussian
    from vaelib.models import VAE, Autoencoder
    from vaelib.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
    from vaelib.objectives import (
        elbo,
        importance_weighted,
        kl_to_standard_normal,
        reconstruction,
    )
    from vaelib.pretrained import load_pretrained
    from vaelib.training import fit

__version__ = "0.1.0"

__all__ = [
    "VAE",
    "Autoencoder",
    "Bernoulli",
    "ConvDecoder",
    "ConvEncoder",
    "Gaussian",
    "MLPDecoder",
    "MLPEncoder",
    "elbo",
    "evaluate",
    "fit",
    "importance_weighted",
    "kl_to_standard_normal",
    "load_pretrained",
    "log_likelihood",
    "reconstruction",
]

_MODULES = {
    "evaluation": ("evaluate", "log_likelihood"),
    "likelihoods": ("Bernoulli", "Gaussian"),
    "models": ("VAE", "Autoencoder"),
    "networks": ("ConvDecoder", "ConvEncoder", "MLPDecoder", "MLPEncoder"),
    "objectives": ("elbo", "importance_weighted", "kl_to_standard_normal", "reconstruction"),
    "pretrained": ("load_pretrained",),
    "training": ("fit",),
}


def __getattr__(name: str) -> object:
    """Import what is asked for when it is asked for: torch takes seconds, ``--help`` needs none."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"vaelib.{module}"), name)
    raise AttributeError(f"module 'vaelib' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return [*globals(), *__all__]
