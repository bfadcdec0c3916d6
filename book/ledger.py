"""The pages that show every claim with what it was measured against, and the mutants."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from book.tables import markdown_table
from vaelib.course.claims import Claim, from_record

CLAIMS = """# All claims

Every ✓ line of the chapters, with the value behind it and the bound that it had to keep. *Live*
claims were measured in the run of the chapter, *published* ones are computed from long runs, whose
numbers are committed. A ± is the standard deviation over seeds or draws; what was measured over
several is their mean and has to clear its bound by two standard errors. *Margin* is the distance of
the value from its bound, in standard deviations.

A bound is loose if it is more than five standard deviations, or more than half of the value, away:
a wrong result could hide in between. The claim then says why it is so all the same. *On digits* is
the run in profile `quick`, with which the tests compare every chapter; what scikit-learn's digits
cannot carry is not checked there.
"""
MUTANTS = """# Mutants

Would a claim or a test notice if the code were wrong? Each row is a known error of VAE code, made
on purpose in a copy of `vaelib`: a few words are changed, the unit tests of its module run, and
then, where one is named, a chapter in profile `quick`. The table says what noticed first. A mutant
that nothing notices would be a hole. `make mutants` repeats it.
"""


def claims_page(results: Path, titles: dict[str, str]) -> str:
    """Return the page of all claims.

    Parameters
    ----------
    results
        The folder of the published results.
    titles
        Name of a chapter's notebook -> title of the chapter, in the order of the book.
    """
    ledgers = {name: _ledger(results, name) for name in titles}
    everything = [claim for full, _ in ledgers.values() for claim in full]
    if not everything:
        return f"{CLAIMS}\nThere is no ledger yet.\n"
    page = f"{CLAIMS}\n{_summary(everything)}\n"
    for name, (full, quick) in ledgers.items():
        number = f"{int(name[:2])}. " if _is_lesson(name) else ""
        page += f"\n## {number}{titles[name]}\n\n{_summary(full)}"
        if run := _read(results, "full", name).get("provenance"):
            page += f" Full run: {run['processor']}, {run['auto_precision']}, {run['date']}."
        page += f" [To the chapter](../notebooks/{name}.ipynb)\n\n"
        page += markdown_table(
            ["claim", "kind", "measured", "margin", "on digits"],
            [_row(claim, quick.get(claim.sentence)) for claim in full],
        )
    return page


def mutants_page(results: Path) -> str:
    """Return the page of the mutants."""
    file = results / "mutants.json"
    if not file.exists():
        return f"{MUTANTS}\nNot tried yet.\n"
    mutants = json.loads(file.read_text(encoding="utf-8"))["mutants"]
    caught = sum(bool(mutant["test"] or mutant["claim"]) for mutant in mutants)
    by_claim = sum(bool(mutant["claim"]) for mutant in mutants)
    page = f"{MUTANTS}\n{caught} of {len(mutants)} were caught, {by_claim} by a chapter, too.\n\n"
    rows = [
        [
            mutant["name"],
            f"`{Path(mutant['file']).name}`",
            _words(mutant["test"]) if mutant["test"] else "",
            _caught_by_chapter(mutant),
        ]
        for mutant in mutants
    ]
    return page + markdown_table(
        ["error", "in", "first test that fails", "what the chapter says"], rows
    )


def _ledger(results: Path, name: str) -> tuple[list[Claim], dict[str, Claim]]:
    """Return the claims of the full run, and those of the quick run by their sentences."""
    full, quick = (
        [from_record(entry) for entry in _read(results, profile, name).get("claims", [])]
        for profile in ("full", "quick")
    )
    return full, {claim.sentence: claim for claim in quick}


def _read(results: Path, profile: str, name: str) -> dict[str, Any]:
    file = results / "claims" / profile / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _summary(claims: Sequence[Claim]) -> str:
    live = sum(not claim.published for claim in claims)
    loose = sum(claim.is_loose for claim in claims)
    return f"{len(claims)} claims, {live} of them live; {loose} bounds are loose."


def _row(claim: Claim, on_digits: Claim | None) -> list[str]:
    sentence = f"{claim.sentence} *(loose: {claim.loose})*" if claim.is_loose else claim.sentence
    margin = f"{claim.margin / claim.spread:.1f}" if claim.spread else ""
    return [sentence, claim.kind, _measured(claim), margin, _measured(on_digits)]


def _measured(claim: Claim | None) -> str:
    """Write the value beside its bound."""
    if claim is None:
        return ""
    spread = "" if claim.spread is None else f" ± {claim.spread:.2g}"
    bounds = _bounds(claim) if claim.checked else "not checked"
    return f"{claim.measured:.4g}{spread} ({bounds})"


def _bounds(claim: Claim) -> str:
    if claim.low == -math.inf:
        return f"≤ {claim.high:.4g}"
    if claim.high == math.inf:
        return f"≥ {claim.low:.4g}"
    return f"{claim.low:.4g} to {claim.high:.4g}"


def _caught_by_chapter(mutant: dict[str, Any]) -> str:
    if not mutant["chapter"]:
        return ""
    link = f"[{_called(mutant['chapter'])}](../notebooks/{mutant['chapter']}.ipynb)"
    claim = mutant["claim"]
    if claim is None:
        return f"{link} does not notice"
    # An assert has no sentence: the runner names its cell.
    return f"{link}: {'an assert' if '.ipynb::' in claim else claim}"


def _is_lesson(name: str) -> bool:
    return name[:2].isdigit()


def _called(name: str) -> str:
    """Return what running text calls a notebook: ``"chapter 1"``, ``"case file A"``."""
    if _is_lesson(name):
        return f"chapter {int(name[:2])}"
    return f"case file {name.split('_')[1].upper()}"


def _words(test: str) -> str:
    """Return the name of a test in words."""
    return test.split("::")[-1].split("[")[0].removeprefix("test_").replace("_", " ")
