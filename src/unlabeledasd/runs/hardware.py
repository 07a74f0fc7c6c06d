"""What a machine is best at: the precision that it multiplies fast; and memory that stays with the process."""

import ctypes
import sys

import torch

PRECISIONS = ("bf16-mixed", "32-true")
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


def best_precision(device: torch.device) -> str:
    """bf16-mixed where the hardware multiplies bfloat16 (avx512_bf16, AMX, a GPU since Ampere), else 32-true."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        fast = device.type == "cpu" and any(getattr(torch.cpu, test, bool)() for test in tests)
    return PRECISIONS[not fast]


def keep_memory() -> None:
    """Let glibc keep the memory of large tensors: given back after use, it would be zeroed anew in every step."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt:
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20)):
            mallopt(option, value)
