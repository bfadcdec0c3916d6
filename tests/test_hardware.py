"""Devices and precisions, those of this machine and of others."""

import warnings
from pathlib import Path

import pytest
import torch

from vaelib import hardware
from vaelib.hardware import multiplies_in_bfloat16, pick_device, pick_precision, processor_name

CPU = torch.device("cpu")

# Devices


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_is_the_first_device_that_works(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto") == pick_device() == torch.device(expected)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_a_device_may_be_a_name_or_a_device(device):
    assert pick_device(device) == torch.device("cpu")


def test_an_unknown_device_is_named():
    with pytest.raises(ValueError, match="device is 'gpu'; expected auto, cuda, mps or cpu"):
        pick_device("gpu")


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "meta"])
def test_a_device_that_is_not_there_is_named(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    message = f"device '{device}' is not available; this machine has: cpu"
    with pytest.raises(ValueError, match=message):
        pick_device(device)


# Precisions


@pytest.mark.parametrize(
    ("capability", "avx512_bf16", "amx", "native"),
    [
        ("AVX2", False, False, False),
        ("AVX512", False, False, False),  # AVX-512 alone is not enough
        ("AVX512", True, False, True),
        ("AVX512", False, True, True),
        ("AVX2", True, True, False),  # held back by ATEN_CPU_CAPABILITY
        ("DEFAULT", False, False, False),
    ],
)
def test_which_processors_multiply_in_bfloat16(monkeypatch, capability, avx512_bf16, amx, native):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert multiplies_in_bfloat16(CPU) is native
    assert pick_precision("auto", CPU) == ("bfloat16" if native else "float32")


def test_this_processor_is_recognised():
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        pytest.skip("only Linux lists what its processor can do")
    flags = cpuinfo.read_text().split()
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert multiplies_in_bfloat16(CPU) == bool({"avx512_bf16", "amx_tile"} & set(flags))
    else:
        assert not multiplies_in_bfloat16(CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_which_gpus_multiply_in_bfloat16():
    device = torch.device("cuda")
    assert multiplies_in_bfloat16(device) == (torch.cuda.get_device_capability(device) >= (8, 0))


def test_other_devices_use_float32():
    assert pick_precision("auto", torch.device("mps")) == "float32"


def test_auto_is_float32_on_a_gpu_that_multiplies_in_bfloat16(monkeypatch):
    monkeypatch.setattr(hardware, "multiplies_in_bfloat16", lambda device: True)
    assert pick_precision("auto", torch.device("cuda")) == "float32"
    assert pick_precision("auto", CPU) == "bfloat16"


@pytest.mark.parametrize("native", [True, False])
def test_a_named_precision_is_kept_and_warned_of_once(monkeypatch, native):
    monkeypatch.setattr(hardware, "multiplies_in_bfloat16", lambda device: native)
    hardware._warn_of_emulation.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            assert pick_precision("bfloat16", CPU) == "bfloat16"
            assert pick_precision("float32", CPU) == "float32"
    messages = [str(w.message) for w in caught]
    assert len(messages) == (0 if native else 1)
    assert all("cpu has no units for bfloat16" in m and "'float32'" in m for m in messages)


def test_an_unknown_precision_is_named():
    with pytest.raises(
        ValueError, match="precision is 'half'; expected one of auto, float32, bfloat16"
    ):
        pick_precision("half", CPU)


def test_the_processor_has_a_name(monkeypatch):
    assert processor_name()
    monkeypatch.setattr(hardware.Path, "exists", lambda path: False)
    monkeypatch.setattr(hardware.platform, "processor", lambda: "")
    assert processor_name() == hardware.platform.machine() != ""
