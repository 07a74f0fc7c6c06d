"""What a machine computes fast: the precision; memory that stays with the process."""

import ctypes
import sys

import torch

from unlabeledasd.errors import InputError

PRECISIONS = ("bf16-mixed", "32-true")
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


def best_precision(device: torch.device) -> str:
    """bf16-mixed where the hardware multiplies bfloat16, else 32-true.

    It does with avx512_bf16, AMX, and on a GPU since Ampere.
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        fast = device.type == "cpu" and any(getattr(torch.cpu, test, bool)() for test in tests)
    return "bf16-mixed" if fast else "32-true"


def check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        allowed = ", ".join(PRECISIONS)
        raise InputError(f"precision={precision}: allowed are {allowed}, and auto for a new run")


def use_threads(threads: int | str) -> int:
    """Set the number of threads of the CPU -> that number; auto: as many as torch takes.

    Results are equal to the last digit only with equal numbers of threads.
    """
    count = torch.get_num_threads() if threads == "auto" else threads
    if type(count) is not int or count < 1:
        raise InputError(f"threads={threads}: allowed are auto and numbers from 1")
    torch.set_num_threads(count)
    return count


def keep_memory() -> None:
    """Keep the memory of large tensors with the process, and do not fill new tensors.

    glibc would return freed memory to the system, which zeroes it again in every step.
    deterministic=true would fill every new tensor, which costs 5 % of a step.
    """
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt:
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20)):
            mallopt(option, value)
