"""Where the numbers and weights of the published run lie."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# In a checkout they lie beside the package; in a wheel they lie inside it.
PUBLISHED = next(
    (p for p in (PACKAGE.parent / "results", PACKAGE / "published") if p.is_dir()),
    PACKAGE / "published",
)
