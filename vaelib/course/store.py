"""Long runs: trainings that no chapter has time for, declared once and published for good.

A chapter's module lists its runs and reads their numbers; this module stores them and trains
nothing by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vaelib.course.results import write_json
from vaelib.course.scoreboard import score
from vaelib.models import VAE
from vaelib.published import PUBLISHED

Numbers = dict[str, Any]
MAX_BYTES = 4 * 10**6
"""Size of the largest file of weights, so that a checkout stays small."""


@dataclass(frozen=True)
class LongRun:
    """A training that is repeated over seeds.

    Parameters
    ----------
    name
        Name of its file.
    train
        Maps a seed to the trained model, if there is one, and the numbers of its run. A training
        of several models returns them by their titles.
    seeds
        The seeds that are published.
    keeps_weights
        Whether the weights of the first seed are published, because a figure needs them.
    title
        What the scoreboard of chapter 7 calls the model; a run without one is not scored.
    dataset
        The data that the model is scored on.
    binary
        Whether its encoder was trained on binary images.
    """

    name: str
    train: Callable[[int], tuple[VAE | Mapping[str, VAE] | None, Numbers]]
    seeds: tuple[int, ...] = (0,)
    keeps_weights: bool = False
    title: str | None = None
    dataset: str = "mnist"
    binary: bool = False

    def scored(self, trained: VAE | Mapping[str, VAE] | None) -> dict[str, Numbers]:
        """Return the scores of the models that have a title."""
        titled = trained if isinstance(trained, Mapping) else {self.title: trained}
        return {
            title: score(model, self.dataset, binary=self.binary)
            for title, model in titled.items()
            if title is not None
        }


class LongRuns:
    """The long runs of one chapter, each with a file in the chapter's folder.

    Parameters
    ----------
    chapter
        Name of the chapter's notebook, without its ending.
    runs
        The runs.
    folder
        Where the published results lie.

    Raises
    ------
    ValueError
        If two of the runs have the same name.
    """

    def __init__(self, chapter: str, runs: Sequence[LongRun], *, folder: Path = PUBLISHED) -> None:
        self.chapter = chapter
        self._runs = {run.name: run for run in runs}
        if len(self._runs) < len(runs):
            raise ValueError(f"{chapter} declares two long runs of one name.")
        self._folder = folder / "long_runs" / chapter

    def __iter__(self) -> Iterator[LongRun]:
        """Iterate over the runs, in the order in which they are declared."""
        return iter(self._runs.values())

    def load(self, name: str, *, retrain: bool = False) -> list[Numbers]:
        """Return the numbers of a long run, one dictionary for each seed.

        Parameters
        ----------
        name
            Name of the run.
        retrain
            Whether to train again here instead of reading the published numbers, which stay as
            they are.

        Raises
        ------
        ValueError
            If there is no long run of this name.
        FileNotFoundError
            If its numbers are not published for every seed.
        """
        run = self._find(name)
        if retrain:
            return [{"seed": seed, **run.train(seed)[1]} for seed in run.seeds]
        published = self.published(name)
        if missing := sorted(set(run.seeds) - published.keys()):
            raise FileNotFoundError(
                f"the numbers of {name!r} are not published for seeds {missing}; "
                "train them with `make long-runs`, or here with retrain=True."
            )
        return [published[seed] for seed in run.seeds]

    def published(self, name: str) -> dict[int, Numbers]:
        """Return seed -> numbers, as far as they are published."""
        self._find(name)
        path = self._folder / f"{name}.json"
        records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        return {record["seed"]: record for record in records}

    def publish(self, name: str, *, retrain: bool = False) -> None:
        """Train the seeds that are not published yet, score what has a title, and write it all."""
        run, path = self._find(name), self._folder / f"{name}.json"
        done = {} if retrain else self.published(name)
        for seed in run.seeds:
            if seed in done:
                print(f"{name}, seed {seed}: published", flush=True)
                continue
            print(f"{name}, seed {seed}: training ...", flush=True)
            trained, numbers = run.train(seed)
            done[seed] = {"seed": seed, **numbers}
            if run.keeps_weights and seed == run.seeds[0]:
                write_weights(path.with_suffix(".safetensors"), trained)
            write_json(path, [done[s] for s in sorted(done)])
            # Written already, so that an error in scoring does not lose the training.
            if scores := run.scored(trained):
                done[seed]["scores"] = scores
                write_json(path, [done[s] for s in sorted(done)])

    def weights(self, name: str) -> dict[str, Tensor]:
        """Return the published weights of a run's first seed, for ``model.load_state_dict``.

        Raises
        ------
        ValueError
            If there is no long run of this name, or it keeps no weights.
        FileNotFoundError
            If the weights are not published.
        """
        if not self._find(name).keeps_weights:
            raise ValueError(f"the long run {name!r} publishes numbers, but no weights.")
        return load_file(self._folder / f"{name}.safetensors")

    def _find(self, name: str) -> LongRun:
        if name not in self._runs:
            known = ", ".join(self._runs)
            raise ValueError(
                f"{self.chapter} has no long run called {name!r}; expected one of {known}."
            )
        return self._runs[name]


def write_weights(path: Path, model: nn.Module) -> None:
    """Write the weights of a model, in half precision where whole ones exceed ``MAX_BYTES``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if sum(value.nbytes for value in weights.values()) > MAX_BYTES:
        weights = {name: value.half() for name, value in weights.items()}
    # By way of a second name: a file that is there is whole.
    part = path.with_name(f".{path.name}.part")
    save_file(weights, part)
    part.replace(path)
