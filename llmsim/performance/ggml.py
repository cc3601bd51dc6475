"""How the back ends of ggml, llama.cpp's library, multiply: which kernel runs for how many tokens, and what bounds it.

Which kernels there are is told by llama.cpp's source of April and May 2024 (builds 2600 to 3000; from memory):

- ``ggml-cuda.cu``, ``ggml_cuda_mul_mat``: up to 8 tokens a product with quantised weights is a kernel for vectors
  (``mmvq.cu``, activations in blocks of 8 bits, 36 bytes for 32); one token with 16-bit weights is another
  (``dmmv.cu``, activations in 32 bit).  Each row of weights reads all activations anew, from the L2 cache.  What is
  longer unpacks the weights to 16 bit, writes them to memory, and calls cuBLAS with sums in 16 bit
  (``ggml_cuda_op_mul_mat_cublas``), at which GeForce cards run twice as fast as with sums in 32 bit.
- ``mmq.cuh``, by default where int8 tensor cores are since June 2024: the weights are read as they are.
- ``ggml-metal.metal``, ``kernel_mul_mm``: tiles of 32 tokens, for each of which the weights are unpacked in registers.
- From the M3 on, Apple's GPU cores issue integer work beside floating point (Apple, "Explore GPU advancements in M3 and
  A17 Pro", 2023): unpacking no longer waits for products, nor products for it.
- Each operator is a launch; on CUDA before May 2024 and on Metal nothing is captured in a graph.
- ``llama.cpp``: a prompt is cut into batches of 512 tokens (``n_ubatch``), which the devices of a layer split pass one
  behind the other (since March 2024).
"""

import re
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llmsim.hardware import Device
from llmsim.model.weights import format_bytes_per_element
from llmsim.performance.kernels import Array, Price, p_norm

MICRO_BATCH = 512  # tokens, n_ubatch
# Constants that were chosen with measured rows in view, to one digit or a round ratio, count like free numbers.  On
# CUDA: LAUNCH_S, HOP_S, SECTOR_BYTES and WATT_FLOPS.  On Metal: ``drawn``, ``tile_work`` and APPLE_PORTS.  IN_MEMORY
# and NORM were assumed; other values of them were tried on the rows and changed little.
LAUNCH_S = 3e-6  # from one small kernel to the next without a graph: chosen, to one digit
SECTOR_BYTES = 32.0  # what a multiprocessor draws from the L2 cache in a clock: one sector, near the best fit of 31
APPLE_PORTS = 2.0  # by as much more a core draws that issues integer and floating-point work side by side
# What a card sustains of 16-bit products, FLOP/s a watt of its limit: chosen on rows of Ampere to Hopper.  Those with
# much peak for little power (RTX 6000 Ada, H100 PCIe) stay behind their peaks the furthest.
WATT_FLOPS = 0.7e12
# Of what passes between kernels half is taken to stay in the last cache (4 to 96 MB): assumed.
IN_MEMORY = 0.5
HOP_S = 300e-6  # handing a batch to the next device, with events and a copy over the host: chosen, to one digit
MATRIX_SHARE, BANDWIDTH_SHARE = 0.8367, 0.8744  # of the peaks: medians of measured 16-bit products (default.yaml)
CPU_MATRIX_SHARE, CPU_BANDWIDTH_SHARE = 0.35, 0.7  # default.yaml, rows cpu
NORM = 3.0  # bounds of one product join in this norm, the middle of the fits of `kernels.gemm`
# mma.sync, the one way to a tensor core that ggml and cuBLAS before Hopper know, reaches 62 % of Hopper's 4,096 FLOP a
# clock and multiprocessor (Luo et al., Benchmarking and Dissecting the Nvidia Hopper GPU Architecture, 2024).
MMA_FLOPS = 0.62 * 4096
# A core of a CPU: two units for 8 (AVX2) fused products of 32 bit; int8 dot products reach about as many.
CORE_FLOPS = 32.0
_BLOCKED = 36 / 32  # bytes of an activation in blocks of 8 bits


@dataclass(frozen=True, slots=True)
class Backend:
    """What a back end does.

    ``launches`` are kernels of a dense layer with quantised and with 16-bit weights; ``vector_tokens`` the most tokens
    that its kernels for vectors take, likewise; ``vector_bytes`` those of an activation in them, divided by the rows
    that share a load; ``drawn`` bytes of operands a clock and multiprocessor.  ``unpacks``: weights go through memory
    as 16 bit before a matrix product.  ``tile_work``: operations to unpack a weight for a tile of 32 tokens, each of
    which takes one.  ``scores``: bytes moved for each score of attention in a prompt.  ``limited``: the power limit
    bounds matrix products.  ``launch_share``: what is left of the launches' time.
    """

    launches: tuple[float, float]
    vector_tokens: tuple[int, int]
    vector_bytes: tuple[float, float]
    unpacks: bool = False
    tile_work: float = 0.0
    scores: float = 0.0
    limited: bool = False
    drawn: float = SECTOR_BYTES
    launch_share: float = 1.0


# A dense layer: two norms with their weights (4), rotary embedding (2), cache (2), scores, softmax, values, their copy
# (4), two sums (2), activation and gate (2), seven products (7), and a kernel that packs activations for each (7).
_DENSE = 23.0
BACKENDS = {
    "ggml-cuda": Backend((_DENSE + 7, _DENSE), (8, 1), (_BLOCKED, 4.0), unpacks=True, scores=20.0, limited=True),
    # June 2024 and later.  A graph saves what made Llama 7B 1.2 times as fast on H100 (NVIDIA's technical blog, August
    # 2024, "Optimizing llama.cpp AI Inference with CUDA Graphs"): four tenths of the launches' time.
    "ggml-cuda-mmq": Backend(
        (_DENSE + 7, _DENSE), (8, 4), (_BLOCKED, 4.0), scores=20.0, limited=True, launch_share=0.6
    ),
    # Each SIMD group takes four rows; 32-bit activations.  Half of the other's operands, chosen on rows of M1 to M3;
    # tile_work from how much slower their prompts are in q4_k_m than in 16 bit.
    "ggml-metal": Backend((_DENSE, _DENSE), (4, 4), (1.0, 1.0), tile_work=6.0, scores=16.0, drawn=0.5 * SECTOR_BYTES),
    "ggml-cpu": Backend((0.0, 0.0), (1, 1), (0.0, 0.0)),
}


class Products:
    """Prices of products on one device by one back end.

    Args:
        device: its data sheet.
        name: of the back end.
    """

    def __init__(self, device: Device, name: str) -> None:
        self.backend = BACKENDS["ggml-cpu" if device.kind == "cpu" else name]
        cpu = device.kind == "cpu"
        self.bandwidth = data_bandwidth(device) * (CPU_BANDWIDTH_SHARE if cpu else BANDWIDTH_SHARE)
        clocks = device.multiprocessors * device.clock_hz
        if issues_both(device):
            self.backend = replace(self.backend, tile_work=0.0)
        ports = APPLE_PORTS if issues_both(device) else 1.0
        self._draw = np.inf if cpu else ports * self.backend.drawn * clocks
        self.rate = CPU_MATRIX_SHARE * CORE_FLOPS * clocks if cpu else MATRIX_SHARE * matrix_flops(device)
        limit = WATT_FLOPS * device.power_w
        self._limit = limit if self.backend.limited and limit > 0 else np.inf

    def price(self, elements: float, weight_format: str, tokens: Array) -> Price:
        """Price products of ``tokens`` [n] tokens with ``elements`` weights, launches apart."""
        packed = weight_format not in ("bf16", "fp16", "fp32", "tf32")
        index = 0 if packed else 1
        size = format_bytes_per_element(weight_format)
        few = self._vector(elements, size, self.backend.vector_bytes[index], tokens)
        many = self._matrix(elements, size, packed, tokens)
        return chosen(tokens <= self.backend.vector_tokens[index], few, many)

    def _vector(self, elements: float, size: float, beside: float, tokens: Array) -> Price:
        memory = np.full(tokens.shape, elements * size / self.bandwidth)
        draw = elements * (size + beside * tokens) / self._draw
        _, (memory_s, draw_s) = p_norm(NORM, memory, draw)
        return Price(np.zeros(tokens.shape), draw_s, memory_s)

    def _matrix(self, elements: float, size: float, packed: bool, tokens: Array) -> Price:
        backend = self.backend
        unpack = backend.tile_work * np.ceil(tokens / 32) if packed else 0.0
        compute = 2 * elements * (tokens + unpack) / self.rate
        limited = 2 * elements * tokens / self._limit
        through = packed and backend.unpacks
        memory = np.full(tokens.shape, elements * (2.0 if through else size) / self.bandwidth)
        _, (compute_s, limit_s, memory_s) = p_norm(NORM, compute, limited, memory)
        written = elements * (size + 2.0) / self.bandwidth if through else 0.0
        return Price(np.zeros(tokens.shape), compute_s + limit_s, memory_s + written)


def matrix_flops(device: Device) -> float:
    """Return the FLOP/s of 16-bit products with sums in 16 bit, as far as ggml's kernels can reach them.

    GeForce cards halve their rate with sums in 32 bit, which is what their files say; int8 stays twice the other.
    """
    peaks = device.peak_flops
    half = max(peaks.get("fp16", 0.0), peaks.get("bf16", 0.0), peaks.get("fp32", 0.0))
    if device.maker != "NVIDIA":
        return half
    return min(max(half, 0.5 * peaks.get("int8", 0.0)), MMA_FLOPS * device.multiprocessors * device.clock_hz)


def data_bandwidth(device: Device) -> float:
    """Return the B/s of memory that are left for data where codes for error correction lie in the same chips.

    They do on cards with GDDR6, one byte for fifteen, and the driver reports the memory without them: 45 GiB of 48.
    Stacked memory, and all cards of 64 GiB and more, have room of their own for them.
    """
    size = device.memory_bytes / 2**30
    corrected = device.kind == "gpu" and size < 64 and not _is_even(size) and _is_even(size * 16 / 15)
    return device.memory_bandwidth * (15 / 16 if corrected else 1.0)


def _is_even(gibibytes: float) -> bool:
    return abs(gibibytes / 2 - round(gibibytes / 2)) < 0.001 * gibibytes / 2


def issues_both(device: Device) -> bool:
    """Return whether a device's cores issue integer and floating-point work side by side: Apple's from the M3 on."""
    found = re.match(r"m(\d+)", device.name)
    return device.maker == "Apple" and device.kind == "gpu" and found is not None and int(found[1]) >= 3


def chosen(first: NDArray[np.bool_], one: Price, other: Price) -> Price:
    """Return ``one`` where ``first`` holds, else ``other``."""
    return Price(
        np.where(first, one.launch, other.launch),
        np.where(first, one.compute, other.compute),
        np.where(first, one.memory, other.memory),
    )
