"""What a model is computed on: products and functions of rows, each row by itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_compiler.runtime import linear, memory
from moe_compiler.runtime.quantise import Packed


@dataclass(frozen=True)
class Processor:
    """A device and its kernels; what they give for a row does not depend on what else is computed with it.

    Attributes:
        device: where weights, caches and activations are.
        kernel: what multiplies, in words.
        multiply: see `linear.multiply`.
        attend: see `linear.attend`.
        functions: of torch that are computed in another way, by name; each gets that of torch and its arguments.
        reset_peak: lets the peak of the memory that is in use begin anew; returns what is in use now, in bytes.
        peak_bytes: returns the peak.
    """

    device: torch.device
    kernel: str
    multiply: Callable[[Tensor, Packed, bool], Tensor]
    attend: Callable[[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor], int, float, Tensor | None], Tensor]
    functions: Mapping[str, Callable[..., Tensor]]
    reset_peak: Callable[[], int]
    peak_bytes: Callable[[], int]


CPU = Processor(
    torch.device("cpu"),
    linear.KERNEL,
    linear.multiply,
    linear.attend,
    linear.FUNCTIONS,
    memory.reset_peak,
    memory.peak_bytes,
)
