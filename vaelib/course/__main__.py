"""List the long runs, and train those that are not published: ``python -m vaelib.course``."""

from __future__ import annotations

import argparse
import sys

from vaelib.course.chapters import CHAPTERS
from vaelib.course.store import LongRuns


def main(arguments: list[str] | None = None) -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m vaelib.course", description=__doc__)
    parser.add_argument("names", nargs="*", help="runs to train; all by default")
    parser.add_argument("--list", action="store_true", help="list the runs and train nothing")
    parser.add_argument("--retrain", action="store_true", help="train published ones again, too")
    options = parser.parse_args(arguments)
    chapter_of = {run.name: runs for runs in CHAPTERS for run in runs}
    if unknown := [name for name in options.names if name not in chapter_of]:
        sys.exit(f"no long run is called {', '.join(unknown)}; --list shows their names")
    for name in options.names or chapter_of:
        if options.list:
            print(_status(chapter_of[name], name))
        else:
            chapter_of[name].publish(name, retrain=options.retrain)


def _status(runs: LongRuns, name: str) -> str:
    (run,) = (run for run in runs if run.name == name)
    published = len(runs.published(name).keys() & set(run.seeds))
    return f"{runs.chapter:24s}{name:40s}{published} of {len(run.seeds)} seeds published"


if __name__ == "__main__":
    main()
