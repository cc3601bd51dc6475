"""How a number format is computed: which kernel runs, at which peak, and how many bytes it moves."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llmsim.model.weights import format_bytes_per_element

SPARSE = "_2_4"  # ending of formats of which two of each four weights are zero
_NATIVE = ("fp8", "fp8_block", "nvfp4")  # both factors of the product are in the format


@dataclass(frozen=True, slots=True)
class Number:
    """A weight format on one device.

    ``kernel`` names the fitted kernels, ``compute`` the peak they run at; bytes are per element.  ``unpacked``: the
    weights become 16 bit before the product.
    """

    kernel: str
    compute: str
    weight_bytes: float
    activation_bytes: float
    warning: str | None = None
    unpacked: bool = False


def weights(name: str, peaks: Mapping[str, float]) -> Number:
    """Return how weights in format ``name`` are multiplied on a device with these peaks (flop/s by format).

    A device without the format's own matrix units unpacks the weights to 16 bit on the fly: they are read
    small and multiplied wide (Marlin kernels).  Integer formats are priced that way everywhere.

    Raises:
        InputError: the format is unknown.
    """
    size = format_bytes_per_element(name)
    if name.endswith(SPARSE):
        dense = weights(name.removesuffix(SPARSE), peaks)
        fast = f"{dense.compute}{SPARSE}"
        said = f"{name} weights: 2:4 kernels were never measured, priced as dense ones with fewer bytes"
        said += " and twice the peak" if fast in peaks else ""
        return replace(dense, compute=fast if fast in peaks else dense.compute, weight_bytes=size, warning=said)
    if name in ("bf16", "fp16"):
        return Number("bfloat16", name if name in peaks else "bf16", size, 2.0)
    if name in ("fp32", "tf32"):
        wide = next((peak for peak in (name, "fp32", "tf32") if peak in peaks), "bf16")
        return Number("bfloat16", wide, size, 4.0)
    if name == "w8a8" and "int8" in peaks:
        return Number("bfloat16", "int8", size, 1.0, "w8a8 weights: priced as 16-bit kernels at the peak of int8")
    peak = name.removesuffix("_block")
    if name in _NATIVE and peak in peaks:
        return Number(name, peak, size, size)
    if name == "mxfp4" and "nvfp4" in peaks:
        # Checkpoints in mxfp4 have activations of 8 or 16 bit (gpt-oss: mxfp8), and the matrix units multiply 4 by 8
        # bit at the rate of 8 (PTX ISA, tcgen05.mma kind::mxf8f6f4); the kernels of nvfp4 are the measured ones.
        compute = "fp8" if "fp8" in peaks else "nvfp4"
        return Number("nvfp4", compute, size, 1.0, "mxfp4 weights: priced as nvfp4 kernels at the peak of fp8")
    said = f"{name} weights: unpacked to 16 bit before the product, the work of unpacking is not priced"
    return Number("bfloat16", "bf16", size, 2.0, said, unpacked=True)


def cache(name: str) -> Number:
    """Return how a KV cache in format ``name`` is read; attention is computed at 16 bit.

    Raises:
        InputError: the format is unknown.
    """
    if name == "fp8_ds_mla":  # DeepSeek's latent cache: 656 bytes for 576 elements, scales and 16-bit rope included
        return Number("fp8", "bf16", 656 / 576, 2.0)
    size = format_bytes_per_element(name)
    if size >= 2.0:
        return Number("bfloat16", "bf16", size, 2.0)
    warning = None if name == "fp8" else f"cache in {name}: priced as fp8 kernels that read fewer bytes"
    return Number("fp8", "bf16", size, 2.0, warning)
