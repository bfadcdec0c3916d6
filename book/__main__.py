"""The commands of the builder: ``python -m book --help``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from book.layout import CHECKOUT


def main(arguments: list[str] | None = None) -> None:
    """Run one command; a failure ends with its message and exit status 1."""
    options = _parser().parse_args(arguments)
    options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m book", description="Build the book.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    execute = commands.add_parser("execute", help="run the chapters into _build/executed")
    execute.add_argument("chapters", nargs="*", help="names such as 01_vae_theory; default: all")
    execute.add_argument("--profile", choices=("auto", "quick", "full"), default="auto")
    execute.add_argument(
        "-p",
        "--parameter",
        action="append",
        default=[],
        type=_assignment,
        metavar="NAME=VALUE",
        help="a value for the parameters cell of the chapters",
    )
    execute.add_argument("--out", type=Path, default=CHECKOUT.executed, help="another folder")
    execute.add_argument("--force", action="store_true", help="run unchanged chapters as well")
    execute.set_defaults(run=_execute)

    stage = commands.add_parser("stage", help="put the sources together in _build/stage")
    stage.add_argument("outputs", choices=("executed", "committed"))
    stage.set_defaults(run=_stage)

    render = commands.add_parser("render", help="render _build/stage into _build/html")
    render.set_defaults(run=_render)

    publish = commands.add_parser("publish", help="run in full and copy back to notebooks/")
    publish.add_argument("chapters", nargs="*", help="names such as 01_vae_theory; default: all")
    publish.set_defaults(run=_publish)

    claims = commands.add_parser("claims", help="run the chapters for their ledger of claims only")
    claims.add_argument("chapters", nargs="*", help="names such as 01_vae_theory; default: all")
    claims.add_argument("--profile", choices=("quick", "full"), help="default: full, then quick")
    claims.set_defaults(run=_claims)

    models = commands.add_parser("models", help="measure the files of the pretrained models")
    models.add_argument("names", nargs="*", help="names such as 2d-mlp; default: all")
    models.set_defaults(run=_models)

    badges = commands.add_parser("badges", help="write address and reading times everywhere")
    badges.set_defaults(run=_badges)

    address = commands.add_parser("address", help="fail unless the committed address is this one")
    address.set_defaults(run=_address)
    return parser


def _execute(options: argparse.Namespace) -> None:
    from book.execute import ParameterError, check_parameters, execute, resolve_profile

    chapters = _select(options.chapters)
    parameters = dict(options.parameter)
    try:
        check_parameters(chapters, parameters)
    except ParameterError as error:
        sys.exit(str(error))
    failed = execute(
        chapters,
        options.out,
        profile=resolve_profile(options.profile),
        parameters=parameters,
        force=options.force,
    )
    _report(failed)


def _stage(options: argparse.Namespace) -> None:
    from book.stage import stage

    stage(CHECKOUT, committed=options.outputs == "committed")


def _render(_: argparse.Namespace) -> None:
    from book.render import RenderError, render

    try:
        render(CHECKOUT.stage, CHECKOUT.html)
    except RenderError as error:
        sys.exit(str(error))
    print(f"the book: {(CHECKOUT.html / 'index.html').as_uri()}")


def _publish(options: argparse.Namespace) -> None:
    from book.publish import publish

    _report(publish(CHECKOUT, _select(options.chapters)))


def _claims(options: argparse.Namespace) -> None:
    from book.publish import record_claims

    chapters, failed = _select(options.chapters), []
    # Full comes first: quick restricts the process to one thread.
    for profile in [options.profile] if options.profile else ["full", "quick"]:
        failed += record_claims(CHECKOUT, chapters, profile=profile)
    _report(failed)


def _models(options: argparse.Namespace) -> None:
    from book.models import record
    from vaelib.pretrained import PRETRAINED

    record(options.names or PRETRAINED, CHECKOUT.results)


def _badges(_: argparse.Namespace) -> None:
    from book.address import AddressError, address_here
    from book.badges import refresh_all

    try:
        url = address_here(CHECKOUT.root)
    except AddressError as error:
        sys.exit(str(error))
    if url is None:
        print(f"no remote on GitHub, so the address stays {CHECKOUT.repository().url}")
    print("rewritten:", ", ".join(refresh_all(CHECKOUT, url)) or "nothing")


def _address(_: argparse.Namespace) -> None:
    from book.address import AddressError, check_address

    try:
        check_address(CHECKOUT)
    except AddressError as error:
        sys.exit(str(error))


def _select(names: list[str]) -> list[Path]:
    """Return the chapters of these names, or all of them."""
    known = {path.stem: path for path in CHECKOUT.chapters()}
    wanted = [Path(name).stem for name in names] or list(known)
    if unknown := sorted(set(wanted) - set(known)):
        sys.exit(f"no chapter {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in wanted]


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, yaml.safe_load(value)


def _report(failed: list[str]) -> None:
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
