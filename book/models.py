"""The pretrained models: what is measured of their files, and the page with their cards."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path

from vaelib.commands import images_of, scores_of
from vaelib.course.results import provenance, write_json
from vaelib.pretrained import PRETRAINED, card, model_from, weights_path

MARK = "<!-- cards -->"


def record(names: Iterable[str], results: Path) -> None:
    """Measure the files of pretrained models, and write their sums and scores."""
    for name in names:
        started = time.perf_counter()
        content = weights_path(name).read_bytes()
        vae = model_from(name, content)
        scores = scores_of(vae, images_of(Path(name)), k=500, n=1000)
        facts = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "scores": scores,
            "provenance": provenance("full", vae.device, time.perf_counter() - started),
        }
        write_json(results / "pretrained" / f"{name}.json", facts)
        print(f"{name}: {scores['negative_elbo']:.2f} nats", flush=True)


def with_cards(page: str) -> str:
    """Put the cards of all pretrained models where a page says so."""
    cards = [f"## {name}\n\n{card(name)}" for name in PRETRAINED]
    return page.replace(MARK, "\n".join(cards))
