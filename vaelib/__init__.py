"""vaelib: the small package behind the book on variational autoencoders.

Data, networks, likelihoods, models, objectives, training, evaluation and figures, one concept in
each module. Losses are per image and in nats; they are averaged once, where they are used.
"""

import vaelib.threads  # noqa: F401  first of all: torch reads once what this sets
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
    "log_likelihood",
    "reconstruction",
]
