"""Compile every kernel of fast/gpu for two generations of GPUs, without one."""

import os

os.environ["TRITON_INTERPRET"] = "0"

import inspect
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from unlabeledasd.fast.gpu import functions

NUMBERS = ["n_rows", "n_sums", "height", "width", "out_height", "out_width"]
IMAGES = [
    "x",
    "y",
    "normalized",
    "positive",
    "grad_normalized",
    "grad_positive",
    "maximum",
    "grad",
    "added",
]
ALTERNATIVES = ["NORMALIZED", "POSITIVE", "NORM", "PRODUCT", "PER_CLIP", "OF_GRADIENT"]
SIZES = {"C": 100, "ROWS": 32, "COLUMNS": 128, "ACC": tl.float32, "SUMS": 512, "UNITS": 6}
SIZES |= {"HIDDEN": 8, "MOMENTUM": 0.1, "EPS": 1e-5, "PADDING": 1}


def kind(kernel: str, name: str, image: str) -> str:
    """Type of an argument that is not a constant, where images have the type `image`."""
    if name in NUMBERS:
        return "i32"
    if name == "winner":
        return "*u8"
    is_image = name in IMAGES or (name == "out" and kernel != "total_kernel")
    per_clip = name.startswith("grad_") and kernel == "excitation_gradient_kernel"
    return image if is_image and not per_clip else "*fp32"


modules = [sys.modules[f.__module__] for f in vars(functions).values() if inspect.isfunction(f)]
kernels = {n: k for m in modules for n, k in vars(m).items() if n.endswith("_kernel")}
for name, kernel in kernels.items():
    constants = [n for n in kernel.arg_names if n.isupper()]
    for image in ("*bf16", "*fp32"):
        signature = {n: kind(name, n, image) for n in kernel.arg_names}
        signature |= dict.fromkeys(constants, "constexpr")
        for value in (True, False):
            given = {**SIZES, **dict.fromkeys(ALTERNATIVES, value)}
            if "convolution" in name or "weight" in name:
                given["C"] = 16
            if value and "added" in kernel.arg_names:  # of each clip, in float32
                signature["added"] = "*fp32"
            source = ASTSource(kernel, signature, {n: given[n] for n in constants})
            triton.compile(source, target=GPUTarget("cuda", 80 if value else 90, 32))
        print(name, image)
