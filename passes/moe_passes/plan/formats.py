"""Weight formats: how many bits each class of weights takes, scales included, and whether experts can be sliced."""

from dataclasses import dataclass, replace

from moe_passes.plan.errors import InputError
from moe_passes.plan.names import nearest

LEAST_BITS, MOST_BITS = 0.5, 32.0
CLASSES = ("experts", "dense", "kv", "embedding")


@dataclass(frozen=True)
class Format:
    """Bits per weight (of `kv`: per cached element), scales included.

    Attributes:
        name: as given on the command line.
        experts: routed experts.
        dense: everything else that every token reads, the head among it.
        kv: the KV cache.
        embedding: the input embedding.
        sliced: bits of the most significant slice of experts; 0 where they cannot be sliced.
        dense_sliced: bits of that of dense weights; 0 where they cannot be sliced.
        source: where the figures come from.
    """

    name: str
    experts: float
    dense: float
    kv: float
    embedding: float
    sliced: float = 0.0
    dense_sliced: float = 0.0
    source: str = "given"


_GGUF = "llama.cpp, ggml-common.h and llama-quant.cpp"
_K_M = f"{_GGUF}: a mix of block types; bits by which files of published models have their published sizes"
FORMATS = {
    f.name: f
    for f in (
        Format(
            "int8-sliced", 8.5, 8.5, 16, 16, 4.5, 4.5, "docs/reference.md section 2: INT8, an FP16 scale per 32 weights"
        ),
        Format("bf16", 16, 16, 16, 16, 0, 0, "two bytes a weight"),
        Format("fp8", 8.002, 8.002, 16, 16, 0, 0, "DeepSeek-V3: E4M3, an FP32 scale per block of 128 x 128"),
        Format("mxfp4", 4.25, 8.5, 16, 16, 0, 4.5, "OCP MX: E2M1, an 8-bit scale per 32; dense weights in sliced INT8"),
        Format("mxfp4-bf16", 4.25, 16, 16, 16, 0, 0, "gpt-oss as published: MXFP4 experts, BF16 for the rest"),
        Format(
            "int4-g128", 4.15625, 4.15625, 16, 16, 0, 0, "AWQ, GPTQ: 4 bits, an FP16 scale and a 4-bit zero per 128"
        ),
        Format("gguf:bf16", 16, 16, 16, 16, 0, 0, _GGUF),
        Format("gguf:q8_0", 8.5, 8.5, 16, 8.5, 0, 0, f"{_GGUF}: an FP16 scale per 32 weights"),
        Format("gguf:q6_k", 6.5625, 6.5625, 16, 6.5625, 0, 0, f"{_GGUF}: 210 bytes per 256 weights"),
        Format("gguf:q5_k_m", 5.66, 6.0, 16, 5.5, 0, 0, _K_M),
        Format("gguf:q4_k_m", 4.85, 5.3, 16, 4.5, 0, 0, _K_M),
        Format("gguf:q4_0", 4.5, 4.9, 16, 4.5, 0, 0, f"{_GGUF}: an FP16 scale per 32 weights, the head in Q6_K"),
        Format("gguf:q3_k_m", 3.85, 4.3, 16, 3.4375, 0, 0, _K_M),
        Format("gguf:mxfp4", 4.25, 8.5, 16, 8.5, 0, 0, f"{_GGUF}: MXFP4 experts, Q8_0 for the rest"),
    )
}
"""By name."""
_METHODS = {"mxfp4": "mxfp4", "fp8": "fp8", "awq": "int4-g128", "gptq": "int4-g128"}
USUAL = "int8-sliced"


def of_quantization(method: str | None) -> Format:
    """Return the format that a configuration's `quantization_config` chooses.

    Raises:
        InputError: it names a method that none of the formats stands for.
    """
    if method is None:
        return FORMATS[USUAL]
    if method not in _METHODS:
        raise InputError(
            f"quantization_config: method '{method[:40]}' is not known; valid: {', '.join(_METHODS)}, or --format with "
            "the bits of each class"
        )
    return FORMATS[_METHODS[method]]


def parse_format(text: str) -> Format:
    """Read a format: a name, bits by class (`experts=4.5,dense=8.5`), or a name and what differs (`int8-sliced,kv=32`).

    Raises:
        InputError: no such format or class, or bits out of range.
    """
    first, *others = text.split(",")
    if "=" not in first:
        if first.strip() not in FORMATS:
            raise InputError(f"--format {text[:60]}: no such format{nearest(first, FORMATS)}, or bits by class")
        return _changed(FORMATS[first.strip()], text, _by_class(text, others))
    bits = _by_class(text, [first, *others])
    missing = [name for name in ("experts", "dense") if name not in bits]
    if missing:
        raise InputError(f"--format {text[:60]}: says nothing of {' and '.join(missing)}; valid: bits of both")
    return Format(text, bits["experts"], bits["dense"], bits.get("kv", 16), bits.get("embedding", 16))


def _changed(of: Format, text: str, bits: dict[str, float]) -> Format:
    """Return a format some of whose classes have other bits; what has other bits than the slices are of has none."""
    found = replace(
        of,
        name=text,
        experts=bits.get("experts", of.experts),
        dense=bits.get("dense", of.dense),
        kv=bits.get("kv", of.kv),
        embedding=bits.get("embedding", of.embedding),
        sliced=of.sliced if bits.get("experts", of.experts) == of.experts else 0.0,
        dense_sliced=of.dense_sliced if bits.get("dense", of.dense) == of.dense else 0.0,
    )
    return found if bits else of


def _by_class(text: str, parts: list[str]) -> dict[str, float]:
    bits: dict[str, float] = {}
    for part in parts:
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in CLASSES or name in bits:
            raise InputError(f"--format {text[:60]}: '{part[:40]}'; valid: {', '.join(CLASSES)}, each once")
        bits[name] = _bits(text, name, value)
    return bits


def _bits(text: str, name: str, value: str) -> float:
    try:
        found = float(value)
    except ValueError:
        found = -1.0
    if not LEAST_BITS <= found <= MOST_BITS:
        raise InputError(f"--format {text[:60]}: {name} of '{value[:20]}' bits; valid: {LEAST_BITS:g} to {MOST_BITS:g}")
    return found
