"""Checkpoints: the state of a training in one file that is whole, or is refused.

A checkpoint is a safetensors file: tensors, and a text with what is not a tensor. Nothing in it
is executed. It carries a SHA-256 sum of its content, and its sizes are compared with the expected
ones before memory is taken for them.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from vaelib.evaluation import Report
from vaelib.seeding import generator
from vaelib.training import STREAMS, History, TrainingState

FORMAT = "vaelib checkpoint 1"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW gathers for each parameter."""
ROOM = 2**24
"""Bytes that a file may have besides its tensors: names, history, random streams."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read or written; the message names the file and says what to do."""


def save_state(path: Path, state: TrainingState, *, about: Mapping[str, Any]) -> None:
    """Write the state of a training; until it is all on the disk, the file stays as it was.

    Parameters
    ----------
    path
        The file.
    state
        What :func:`vaelib.training.fit` hands out after an epoch. Snapshots are left out.
    about
        What else a reader must know, as JSON can hold it.

    Raises
    ------
    CheckpointError
        If the file cannot be written.
    """
    history = {name: value for name, value in vars(state.history).items() if name != "snapshots"}
    for split in ("train", "test"):
        history[split] = [asdict(report) for report in history[split]]
    facts = {"epoch": state.epoch, "history": history, "about": dict(about)}
    write_tensors(path, _tensors_of(state), facts)


def load_state(path: Path, model: nn.Module, *, about: Mapping[str, Any]) -> TrainingState:
    """Read the state of a training of a model, written by :func:`save_state`.

    Parameters
    ----------
    path
        The file.
    model
        A model of the same architecture, on the device of the training; it is left as it is.
    about
        What the checkpoint must say about itself.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, of another kind, or of another model than this.
    """
    likes = {f"weights/{name}": value for name, value in model.state_dict().items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    order = [p for p in trained if p.dim() > 1] + [p for p in trained if p.dim() <= 1]
    for i, parameter in enumerate(order):
        for name in MOMENTS:
            likes[f"moments/{i}/{name}"] = torch.empty(()) if name == "step" else parameter
    for name in STREAMS:
        likes[f"streams/{name}"] = generator(0, name, order[0].device).get_state()
    tensors, facts = read_tensors(path, likes, about=about)
    try:
        for name in STREAMS:
            torch.Generator(order[0].device).set_state(tensors[f"streams/{name}"])
    except RuntimeError as error:
        raise _refusal(path, f"does not hold the state of a random generator: {error}") from None
    try:
        return TrainingState(
            epoch=facts["epoch"],
            weights=_named(tensors, "weights/"),
            moments={i: _named(tensors, f"moments/{i}/") for i in range(len(order))},
            streams=_named(tensors, "streams/"),
            history=_history(facts["history"], facts["epoch"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _refusal(path, f"does not hold the history of a training: {error!r}") from None


def load_weights(path: Path, model: nn.Module, *, about: Mapping[str, Any]) -> None:
    """Bring the weights of a checkpoint into a model; parameters and errors of :func:`load_state`.

    The rest of the file is verified, but neither used nor compared with this machine's.
    """
    likes = {f"weights/{name}": value for name, value in model.state_dict().items()}
    tensors, _ = read_tensors(path, likes, about=about, others=("moments/", "streams/"))
    model.load_state_dict(_named(tensors, "weights/"))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors on the CPU and facts for JSON into a safetensors file, with their sum."""
    text = json.dumps(facts)
    metadata = {"format": FORMAT, "facts": text, "sha256": _digest(tensors, text)}
    content = save({name: t.contiguous() for name, t in tensors.items()}, metadata)
    write_atomically(path, content)


def read_tensors(
    path: Path,
    likes: Mapping[str, Tensor],
    *,
    about: Mapping[str, Any],
    others: tuple[str, ...] = (),
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of :func:`write_tensors`, and verify all of it.

    Parameters
    ----------
    path
        The file.
    likes
        Name -> a tensor of the shape and type that the file must hold under it.
    about
        What ``facts["about"]`` must be.
    others
        What the names of further tensors, that are verified and left out, begin with.

    Returns
    -------
    tuple
        Tensors on the CPU, and facts.

    Raises
    ------
    CheckpointError
        If the file is anything else.
    """
    try:
        _check_size(path, at_most=4 * sum(like.nbytes for like in likes.values()) + ROOM)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise _refusal(path, f"says that it is {metadata.get('format')!r}, not {FORMAT!r}")
            names = set(file.keys())
            if missing := sorted(likes.keys() - names):
                raise _refusal(path, f"lacks {_list(missing)}: it is of another model")
            strange = sorted(n for n in names - likes.keys() if not n.startswith(others or "\0"))
            if strange:
                raise _refusal(path, f"holds {_list(strange)} besides: it is of another model")
            for name, like in likes.items():
                shape = file.get_slice(name).get_shape()
                if shape != list(like.shape):
                    raise _refusal(path, f"has {name} of shape {shape}; not {list(like.shape)}")
            tensors = {name: file.get_tensor(name) for name in sorted(names)}
    except (SafetensorError, OverflowError, RuntimeError) as error:
        raise _refusal(path, f"is damaged or no safetensors file: {error}") from None
    except OSError as error:
        raise _refusal(path, f"cannot be read: {error.strerror or error}") from None
    if metadata.get("sha256") != _digest(tensors, metadata.get("facts", "")):
        raise _refusal(path, "is damaged: its content does not have the SHA-256 sum that it names")
    for name, like in likes.items():
        value = tensors[name]
        if value.dtype != like.dtype:
            raise _refusal(path, f"has {name} in {value.dtype}; expected {like.dtype}")
        if value.is_floating_point() and not value.isfinite().all():
            raise _refusal(path, f"has values in {name} that are NaN or infinite")
    facts = _parsed(path, metadata["facts"])
    check_about(path, facts.get("about"), about)
    return {name: tensors[name] for name in likes}, facts


def check_about(path: Path, found: object, expected: Mapping[str, Any]) -> None:
    """Raise a CheckpointError that names the first thing that a file says otherwise."""
    found = found if isinstance(found, dict) else {}
    for topic, ours in expected.items():
        theirs = found.get(topic)
        if ours == theirs:
            continue
        difference = f"{topic} = {theirs!r}, but here it is {ours!r}"
        if isinstance(ours, dict) and isinstance(theirs, dict):
            names = sorted(ours.keys() | theirs.keys())
            name = next(n for n in names if ours.get(n, path) != theirs.get(n, path))
            difference = f"{name} = {theirs.get(name)!r}, but here it is {ours.get(name)!r}"
        raise CheckpointError(
            f"{path} was written with {difference}. Use what it was written with, or another "
            "folder."
        )


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file by new content at once: whatever ends the process, one of the two is there.

    Raises
    ------
    CheckpointError
        If the disk is full or cannot be written; the file stays as it was.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror}. What was there before is still whole. "
            "Make room or another folder writable, then go on from it."
        ) from None


def _tensors_of(state: TrainingState) -> dict[str, Tensor]:
    tensors = {f"weights/{name}": value for name, value in state.weights.items()}
    for i, gathered in state.moments.items():
        tensors |= {f"moments/{i}/{name}": value for name, value in gathered.items()}
    return tensors | {f"streams/{name}": value for name, value in state.streams.items()}


def _named(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    """Return the tensors whose name begins so, under the rest of it."""
    return {
        name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)
    }


def _history(facts: Mapping[str, Any], epoch: int) -> History:
    """Return the history after an epoch; raise an error if the facts do not fit."""
    kinds = {"distortion": float, "rate": float, "standard_error": float, "n": int}
    splits = {
        split: [Report(**{k: kinds[k](v) for k, v in report.items()}) for report in facts[split]]
        for split in ("train", "test")
    }
    history = History(**{**facts, **splits})
    if type(epoch) is not int or not 0 < epoch == len(history.grad_norm):
        raise ValueError(f"epoch is {epoch!r}, with {len(history.grad_norm)} gradient norms")
    return history


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """Return the SHA-256 sum of names, types, shapes, values and the text."""
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        total.update(f"\n{name} {value.dtype} {list(value.shape)}\n".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def _check_size(path: Path, *, at_most: int) -> None:
    """Refuse a file of more bytes than it can need, or that announces more than it has."""
    size = path.stat().st_size
    if size > at_most:
        raise _refusal(path, f"has {size:,} bytes, more than the {at_most:,} of such a model")
    with path.open("rb") as file:
        beginning = file.read(8)
    announced = struct.unpack("<Q", beginning)[0] if len(beginning) == 8 else 0
    if not 2 <= announced <= size - 8:
        raise _refusal(
            path,
            f"is damaged or no safetensors file: it has {size:,} bytes and begins {beginning!r}",
        )


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refusal(path, f"holds facts that are no JSON: {error}") from None
    if not isinstance(facts, dict):
        raise _refusal(path, "holds facts that are no JSON object")
    return facts


def _list(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _refusal(path: Path, fault: str) -> CheckpointError:
    return CheckpointError(
        f"{path} {fault}. Expected a checkpoint that vaelib wrote for this model; take a copy of "
        "it, or delete the file and train anew."
    )
