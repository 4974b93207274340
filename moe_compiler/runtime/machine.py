"""What `moec run` can run on: what computes, and what experts are loaded from."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from moe_compiler.runtime import linear, reader
from moe_compiler.runtime.far import FarMemory
from moe_compiler.runtime.processor import CPU, Processor
from moe_compiler.runtime.store_file import StoreFile


@dataclass(frozen=True)
class Machine:
    """A processor, and where its experts come from.

    Attributes:
        processor: what computes.
        far: returns the far memory of a store: the store itself, or what was filled from it.
        warm_up: compiles kernels, so that a run need not, or has fewer to compile.
    """

    processor: Processor
    far: Callable[[StoreFile], FarMemory[Any]]
    warm_up: Callable[[], None]


def machine(device: str) -> Machine:
    """Return the machine of a device: `cpu`, or `cuda`.

    Raises:
        ValueError: there is none here.
    """
    if device == "cuda":
        return _cuda()
    if device != "cpu":
        raise ValueError(f"device {device}; valid: cpu, cuda")
    return Machine(CPU, lambda store: store, linear.warm_up)


def _cuda() -> Machine:
    from moe_compiler.runtime.cuda import Cuda
    from moe_compiler.runtime.pinned import PinnedMemory

    cuda = Cuda()
    try:
        from moe_compiler.runtime import gpu
    except ImportError as error:
        raise ValueError(
            f"--device cuda: {error}; valid: Triton, which builds of torch with CUDA bring along"
        ) from None

    def warm_up() -> None:
        reader.warm_up()
        try:
            gpu.warm_up(cuda.device)
        except (RuntimeError, OSError, AssertionError, subprocess.SubprocessError) as error:
            raise ValueError(
                f"--device cuda: its kernels cannot be compiled: {error}; valid: a C compiler and the headers of "
                "Python, which Triton needs, or --device cpu"
            ) from error

    processor = Processor(
        cuda.device, gpu.KERNEL, gpu.multiply, gpu.attend, gpu.FUNCTIONS, cuda.reset_peak, cuda.peak_bytes
    )
    return Machine(processor, lambda store: PinnedMemory(store, cuda), warm_up)
