"""The command ``vaelib``: its flags and their help. What it does stands in vaelib.commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, subcommand

from vaelib.configuration import Configuration, ConfigurationError
from vaelib.recipes import DEFAULT, RECIPES

Recipe = Literal["2d-mlp", "128d-bernoulli", "128d-gaussian"]
DataSet = Literal["mnist", "fashion-mnist", "digits"]
Picture = Literal["samples", "reconstructions", "manifold", "interpolation", "classes"]
Model = Literal[
    "2d-mlp",
    "2d-conv",
    "16d-conv",
    "2d-triplets",
    "m1-mnist",
    "m1-fashion-mnist",
    "burda-vae",
    "burda-iwae",
]
CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True)
class Flags(Configuration):
    """What to train, and how."""

    def __post_init__(self) -> None:
        """Check nothing yet: tyro would wrap the error into one of its own."""

    def checked(self) -> Configuration:
        """Return the configuration, or raise a ConfigurationError."""
        return Configuration(**vars(self))


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a VAE; its folder can be left at any moment and gone on with.

    Without flags it trains the 2-D model of the book's first chapter on MNIST.

    Parameters
    ----------
    recipe
        What the other flags start from: a training of the book.
    config_file
        A file, JSON or TOML, to start from instead; its keys are named as the flags.
    out
        Folder of the run; runs/RECIPE if not given.
    resume
        Go on with the run in this folder; its configuration is what the other flags start from.
    tensorboard
        Write a log for TensorBoard, too (tensorboard --logdir runs).
    """

    recipe: Recipe = DEFAULT
    config_file: Path | None = None
    out: Path | None = None
    resume: bool = False
    tensorboard: bool = False
    flags: OmitArgPrefixes[Flags]


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a trained model on its test images.

    Parameters
    ----------
    run
        Folder of the run, or the name of a pretrained model.
    k
        Samples for each image in the estimate of log p(x).
    images
        Test images, drawn at random, on which log p(x) is estimated.
    json
        Print JSON instead of a table.
    """

    run: Positional[Path]
    k: int = 500
    images: int = 1000
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Draw pictures with a trained model, and write a PNG.

    Parameters
    ----------
    run
        Folder of the run, or the name of a pretrained model.
    what
        Samples from the prior; test images above their reconstructions; the plane of codes, for
        two latent dimensions; the way between two test images; or samples class by class, for
        images with labels.
    out
        The file; WHAT.png in the folder of the run if not given, or here for a pretrained model.
    n
        Images in the picture, or on each side of the manifold.
    seed
        Fixes the draws.
    """

    run: Positional[Path]
    what: Picture = "samples"
    out: Path | None = None
    n: int = 20
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Data:
    """List, download or verify the data sets.

    Parameters
    ----------
    action
        What to do.
    names
        With which data sets; all if none is named.
    """

    action: Positional[Literal["list", "download", "verify"]]
    names: Positional[tuple[DataSet, ...]] = ()


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the pretrained models, or show the cards of some.

    Parameters
    ----------
    names
        Those whose cards to show.
    """

    names: Positional[tuple[Model, ...]] = ()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; it ends the process, with status 0, 1 (failed), 2 (usage) or 130 (Ctrl-C).

    Parameters
    ----------
    arguments
        Those of the command line if not given.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        asked = _parse(arguments)
        wanted = _arguments_of(asked)
    except ConfigurationError as error:
        _fail(error, 2)
    try:
        from vaelib import commands  # imports torch

        getattr(commands, type(asked).__name__.lower())(**wanted)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, RuntimeError, OSError, ModuleNotFoundError) as error:
        _fail(error, 1)


def _parse(arguments: list[str]) -> Any:
    start = Train(flags=Flags(**vars(_starting_point(arguments))))
    commands = (
        Annotated[Train, subcommand("train", default=start)]
        | Annotated[Evaluate, subcommand("evaluate")]
        | Annotated[Generate, subcommand("generate")]
        | Annotated[Data, subcommand("data")]
        | Annotated[Models, subcommand("models")]
    )
    return tyro.cli(
        commands,
        args=arguments,
        prog="vaelib",
        description="Train, measure and sample variational autoencoders.",
    )


def _arguments_of(asked: Any) -> dict[str, Any]:
    """Return the arguments of the function in vaelib.commands that has the name of the command."""
    wanted = dict(vars(asked))
    if isinstance(asked, Train):
        wanted["config"] = wanted.pop("flags").checked()
        wanted["out"] = asked.out or Path("runs", asked.recipe)
        del wanted["recipe"], wanted["config_file"]  # what the flags started from
    return wanted


def _starting_point(arguments: list[str]) -> Configuration:
    """Return the configuration that the other flags change: a run's, a file's or a recipe's."""
    if arguments[:1] != ["train"]:
        return RECIPES[DEFAULT]
    recipe = _value_of("--recipe", arguments) or DEFAULT
    folder = Path(_value_of("--out", arguments) or Path("runs", recipe))
    if "--resume" in arguments and (folder / CONFIG).exists():
        return Configuration.read(folder / CONFIG)
    if file := _value_of("--config-file", arguments):
        return Configuration.read(file)
    return RECIPES.get(recipe, RECIPES[DEFAULT])  # an unknown one is refused by its choices


def _value_of(flag: str, arguments: list[str]) -> str | None:
    for i, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name.replace("_", "-") == flag:
            return value or next(iter(arguments[i + 1 :]), None)
    return None


def _fail(error: Exception, status: int) -> None:
    print(f"vaelib: {error}", file=sys.stderr)
    sys.exit(status)
