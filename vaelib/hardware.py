"""What this machine computes on, and in which precision."""

from __future__ import annotations

import platform
import re
import warnings
from functools import cache
from pathlib import Path

import torch

PRECISIONS = ("auto", "float32", "bfloat16")


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device of a name; ``"auto"`` is the first of CUDA, MPS and the CPU that works.

    Raises
    ------
    ValueError
        If the name is unknown or this machine has no such device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return torch.device(next(name for name, works in available.items() if works))
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}; expected auto, cuda, mps or cpu.") from error
    if not available.get(device.type, False):
        here = ", ".join(name for name, works in available.items() if works)
        raise ValueError(f"device {str(device)!r} is not available; this machine has: {here}.")
    return device


def pick_precision(precision: str, device: torch.device) -> str:
    """Return ``"float32"`` or ``"bfloat16"``; ``"auto"`` is what the device is fast in.

    That is bfloat16 on processors that multiply in it, and float32 elsewhere. A GPU multiplies in
    it, too, but small networks leave it waiting for the next operation, and the conversions add
    some: on an H200 float32 was 1.4 to 3.8 times as fast (``results/benchmarks/cuda.json``).

    A device without such units emulates bfloat16, which is slower than float32 by a large factor:
    asked for in so many words, it is used, with one warning.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}.")
    if precision == "auto":
        fast = device.type == "cpu" and multiplies_in_bfloat16(device)
        return "bfloat16" if fast else "float32"
    if precision == "bfloat16" and not multiplies_in_bfloat16(device):
        _warn_of_emulation(device.type)
    return precision


def multiplies_in_bfloat16(device: torch.device) -> bool:
    """Whether a device has units that multiply in bfloat16.

    That is CUDA from compute capability 8.0 on, and x86 processors with AVX-512 BF16 or AMX.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    # The variable ATEN_CPU_CAPABILITY can hold torch back from what the processor has.
    if device.type != "cpu" or "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def processor_name() -> str:
    """Return the model name of this machine's processor, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (model := re.search(r"model name\s*: (.+)", cpuinfo.read_text())):
        return model.group(1).strip()
    return platform.processor() or platform.machine()


@cache
def _warn_of_emulation(device_type: str) -> None:
    warnings.warn(
        f"this {device_type} has no units for bfloat16 and emulates it, slowly; "
        "expected precision 'auto' or 'float32' here.",
        stacklevel=4,
    )
