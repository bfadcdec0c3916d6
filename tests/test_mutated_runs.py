"""Damaged, foreign and hostile files in the folder of a run: refused, or read as they were."""

import json
import os
import pickle
import random
import resource
import shutil
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import SMALL, small_images, small_run

from vaelib.checkpoints import CheckpointError, load_state, read_tensors, write_tensors
from vaelib.configuration import ConfigurationError
from vaelib.runs import build, configuration_of, load

CHECKPOINT, CONFIG = "checkpoint.safetensors", "config.json"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, and others of another shape and another likelihood."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "good": small_run(folder / "good"),
        "wide": small_run(folder / "wide", replace(SMALL, encoder_hidden=(9,))),
        "grey": small_run(folder / "grey", replace(SMALL, likelihood="bernoulli")),
    }


class Bomb:
    """What writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def header_and_data(file: Path) -> tuple[dict, bytes]:
    content = file.read_bytes()
    (n,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + n]), content[8 + n :]


def with_header(file: Path, header: dict, data: bytes) -> None:
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


# Mutations of any file: (file, random numbers) -> nothing


def flip_a_bit(file, rng):
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def flip_a_bit_of_the_beginning(file, rng):
    content = bytearray(file.read_bytes())
    content[rng.randrange(min(3000, len(content)))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def truncate(file, rng):
    os.truncate(file, rng.randrange(file.stat().st_size))


def append(file, rng):
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.randrange(1, 100)))


def zero_a_block(file, rng):
    content = bytearray(file.read_bytes())
    at = rng.randrange(len(content))
    content[at : at + 64] = bytes(len(content[at : at + 64]))
    file.write_bytes(content)


def shuffle_blocks(file, rng):
    content = file.read_bytes()
    a, b = sorted(rng.sample(range(1, len(content)), 2))
    file.write_bytes(content[a:b] + content[:a] + content[b:])


def put_noise(file, rng):
    file.write_bytes(rng.randbytes(rng.randrange(5000)))


def put_a_pickle(file, rng):
    file.write_bytes(pickle.dumps(Bomb(file.parent / "executed")))


def put_a_torch_file(file, rng):
    torch.save({"weights": Bomb(file.parent / "executed")}, file)


def put_a_zip(file, rng):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Bomb(file.parent / "executed")))


def put_deep_json(file, rng):
    text = b"[" * 50_000
    file.write_bytes(text if file.name == CONFIG else struct.pack("<Q", len(text)) + text)


def remove(file, rng):
    file.unlink()


def put_a_folder(file, rng):
    file.unlink()
    file.mkdir()


ANY = [
    flip_a_bit, flip_a_bit_of_the_beginning, truncate, append, zero_a_block, shuffle_blocks,
    put_noise, put_a_pickle, put_a_torch_file, put_a_zip, put_deep_json, remove, put_a_folder,
]  # fmt: skip


# Mutations of a checkpoint


def announce_a_huge_header(file, rng):
    content = file.read_bytes()
    file.write_bytes(struct.pack("<Q", 2 ** rng.randrange(30, 64)) + content[8:])


def announce_a_huge_tensor(file, rng):
    header, data = header_and_data(file)
    entry = header[rng.choice([name for name in header if name != "__metadata__"])]
    entry["shape"] = [2 ** rng.randrange(20, 62), *entry["shape"]]
    if rng.random() < 0.5:
        entry["data_offsets"][1] = entry["data_offsets"][0] + 2 ** rng.randrange(40, 60)
    with_header(file, header, data)


def announce_an_empty_tensor_of_a_huge_shape(file, rng):
    header, data = header_and_data(file)
    header["weights/more"] = {
        "dtype": "F32", "shape": [0, 2**40], "data_offsets": [len(data), len(data)],
    }  # fmt: skip
    with_header(file, header, data)


def swap_two_tensors(file, rng):
    header, data = header_and_data(file)
    a, b = rng.sample([name for name in header if name != "__metadata__"], 2)
    header[a], header[b] = header[b], header[a]
    with_header(file, header, data)


def change_a_type(file, rng):
    header, data = header_and_data(file)
    entry = header[rng.choice([name for name in header if name != "__metadata__"])]
    entry["dtype"] = rng.choice(["I32", "F16", "BOOL", "F64", "X9"])
    with_header(file, header, data)


def change_the_facts(file, rng):
    header, data = header_and_data(file)
    metadata = header["__metadata__"]
    name = rng.choice(sorted(metadata))
    metadata[name] = rng.choice(["", "{}", "[]", "null", metadata[name] + " ", "1e999"])
    with_header(file, header, data)


def drop_the_metadata(file, rng):
    header, data = header_and_data(file)
    del header["__metadata__"]
    with_header(file, header, data)


def save_the_weights_only(file, rng):
    tensors = load_file(file)
    save_file({n: t for n, t in tensors.items() if n.startswith("weights/")}, file)


CHECKPOINTS = [
    *ANY, announce_a_huge_header, announce_a_huge_tensor, announce_an_empty_tensor_of_a_huge_shape,
    swap_two_tensors, change_a_type, change_the_facts, drop_the_metadata, save_the_weights_only,
]  # fmt: skip


# Mutations of a configuration


def change_a_value(file, rng):
    said = json.loads(file.read_text())
    name = rng.choice(sorted(said))
    values = [
        None, -1, 0, 2**60, 10**400, 1.5, True, "", "x", [], {}, [2**40], [-1], ["a"], [[8]],
        [8] * 9,
    ]  # fmt: skip
    said[name] = rng.choice([value for value in values if value != said[name]])
    file.write_text(json.dumps(said))


def swap_two_values(file, rng):
    said = json.loads(file.read_text())
    while True:
        a, b = rng.sample(sorted(said), 2)
        if said[a] != said[b]:
            break
    said[a], said[b] = said[b], said[a]
    file.write_text(json.dumps(said))


def rename_a_key(file, rng):
    said = json.loads(file.read_text())
    name = rng.choice(sorted(said))
    said[rng.choice(["epoch", "Lr", "__class__", ""])] = said.pop(name)
    file.write_text(json.dumps(said))


def drop_a_key(file, rng):
    said = json.loads(file.read_text())
    del said[rng.choice(sorted(said))]
    file.write_text(json.dumps(said))


def put_not_a_number(file, rng):
    said = json.loads(file.read_text())
    said[rng.choice(["lr", "beta", "sigma"])] = float(rng.choice(["nan", "inf", "-inf"]))
    file.write_text(json.dumps(said))


def fill_it_up(file, rng):
    file.write_text(file.read_text() + " " * 200_000)


CONFIGS = [
    *ANY, change_a_value, change_a_value, swap_two_values, swap_two_values, rename_a_key,
    drop_a_key, put_not_a_number, fill_it_up,
]  # fmt: skip

CASES = [
    (name, mutation, seed)
    for name, mutations in ((CHECKPOINT, CHECKPOINTS), (CONFIG, CONFIGS))
    for seed in range(5)
    for mutation in mutations
]


def test_there_are_two_hundred_mutations():
    assert len(CASES) >= 200


def peak() -> int:
    """The most memory that this process has had, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def equal(one, two) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("name", "mutation", "seed"), CASES, ids=lambda v: getattr(v, "__name__", str(v))
)
def test_a_mutated_file_is_refused_or_read_as_it_was(runs, tmp_path, name, mutation, seed):
    truth, before = load(runs["good"]).state_dict(), peak()
    folder = shutil.copytree(runs["good"], tmp_path / "run")
    mutation(folder / name, random.Random(f"{name} {mutation.__name__} {seed}"))
    try:
        read = load(folder).state_dict()
    except (ConfigurationError, CheckpointError) as error:
        assert str(folder / name) in str(error) or str(folder / CHECKPOINT) in str(error)
        assert len(str(error)) < 2000
        # Going on with it is refused, too, and leaves the folder as it is.
        if name == CHECKPOINT and mutation is not remove:
            content = (folder / name).read_bytes() if (folder / name).is_file() else None
            with pytest.raises((ConfigurationError, CheckpointError)):
                small_run(folder, resume=True)
            assert content is None or (folder / name).read_bytes() == content
    else:
        assert equal(read, truth)
        assert configuration_of(folder)[0] == SMALL
    assert not (folder / "executed").exists()
    assert peak() - before < 2**20


@pytest.mark.parametrize("other", ["wide", "grey"])
@pytest.mark.parametrize("name", [CHECKPOINT, CONFIG])
def test_a_file_of_another_run_is_refused(runs, tmp_path, other, name):
    folder = shutil.copytree(runs["good"], tmp_path / "run")
    shutil.copy(runs[other] / name, folder / name)
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors.*(shape|lacks|likelihood)"):
        load(folder)


# Files that somebody made with care: their sums are right


def rewrite(folder: Path, change) -> Path:
    """Change what a checkpoint holds, and write it again with its sum."""
    file = folder / CHECKPOINT
    tensors = load_file(file)
    facts = json.loads(header_and_data(file)[0]["__metadata__"]["facts"])
    change(tensors, facts)
    write_tensors(file, tensors, facts)
    return folder


def poison(tensors, facts):
    tensors["weights/encoder.layers.0.bias"].fill_(float("nan"))


def cut(tensors, facts):
    tensors["moments/0/exp_avg"] = tensors["moments/0/exp_avg"][:-1].clone()


def add(tensors, facts):
    tensors["weights/more"] = torch.zeros(1)


def enlarge(tensors, facts):
    tensors["streams/more"] = torch.zeros(2**23)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (poison, "NaN or infinite"),
        (cut, r"moments/0/exp_avg of shape \[\d+, 784\]; not \[8, 784\]"),
        (add, "holds weights/more besides"),
        (enlarge, "bytes, more than the|holds streams/more besides"),
    ],
)
def test_tensors_of_another_kind_are_refused_when_their_sum_is_right(
    runs, tmp_path, change, message
):
    folder = rewrite(shutil.copytree(runs["good"], tmp_path / "run"), change)
    with pytest.raises(CheckpointError, match=message):
        small_run(folder, resume=True)
    if change is not cut:  # what AdamW gathered is not read for the model alone
        with pytest.raises(CheckpointError, match=message):
            load(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epoch", 2),
        ("epoch", True),
        ("epoch", "3"),
        ("history", None),
        ("history", {"epochs": []}),
        ("history", {"train": [{"distortion": "x"}], "test": []}),
        ("history", {"train": [], "test": [], "surprise": 1}),
    ],
)
def test_a_history_of_another_kind_is_refused_when_its_sum_is_right(runs, tmp_path, key, value):
    folder = rewrite(
        shutil.copytree(runs["good"], tmp_path / "run"), lambda t, facts: facts.update({key: value})
    )
    with pytest.raises(CheckpointError, match="does not hold the history of a training"):
        small_run(folder, resume=True)


def test_a_generator_that_is_none_is_refused_when_its_sum_is_right(runs, tmp_path):
    def change(tensors, facts):
        tensors["streams/noise"].fill_(255)

    folder = rewrite(shutil.copytree(runs["good"], tmp_path / "run"), change)
    with pytest.raises(CheckpointError, match="state of a random generator"):
        small_run(folder, resume=True)


def test_a_state_comes_back_from_its_file_as_it_was(runs):
    facts = json.loads(header_and_data(runs["good"] / CHECKPOINT)[0]["__metadata__"]["facts"])
    state = load_state(runs["good"] / CHECKPOINT, build(SMALL), about=facts["about"])
    tensors = load_file(runs["good"] / CHECKPOINT)  # by another reader than ours
    assert {f"weights/{name}" for name in state.weights} <= tensors.keys()
    for name, value in state.weights.items():
        assert torch.equal(value, tensors[f"weights/{name}"])
    for i, gathered in state.moments.items():
        for name, value in gathered.items():
            assert torch.equal(value, tensors[f"moments/{i}/{name}"])
    assert facts["about"]["configuration"] == SMALL.as_dict()
    assert facts["about"]["images"] == small_images().fingerprint()
    assert state.epoch == len(state.history.grad_norm) == 3


def test_a_file_of_somebody_else_says_what_it_is(tmp_path):
    file = tmp_path / "theirs.safetensors"
    save_file({"a": torch.zeros(2)}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="says that it is 'pt', not 'vaelib checkpoint 1'"):
        read_tensors(file, {"a": torch.zeros(2)}, about={})
