"""The factors of a software stack on the prices of its kernels, by kind of work."""

import numpy as np

from llmsim.performance.correction import StackCorrection
from llmsim.performance.kernels import Array
from llmsim.performance.kinds import KINDS


def correction_scales(correction: StackCorrection) -> Array:
    """Return the factor of each kind of work outside of attention's kernels: [len(KINDS), 1].

    What a stack's library of products costs (``compute``) does not reach experts, which have kernels of their own; the
    factors on those are part of their price (`llmsim.performance.expert_layers`).
    """
    products = correction.products
    factors = {
        "launch": correction.launch,
        "compute": products * correction.compute,
        "memory": products * correction.memory,
        "communication": correction.communication,
        "host": 1.0,
    }
    return np.array([[products if kind == ("compute", "experts") else factors[kind[0]]] for kind in KINDS])


def attention_scales(correction: StackCorrection) -> Array:
    """Return the factor of each kind of work in attention's kernels: [len(KINDS), 1]."""
    factors = {"compute": correction.compute, "memory": correction.memory}
    return np.array([[correction.attention * factors.get(resource, 1.0)] for resource, _ in KINDS])


def scaled_attention(correction: StackCorrection, seconds: float, compute: float) -> tuple[float, float]:
    """Return attention's ``seconds`` with the factors, and the share that is bound by compute."""
    if correction.compute == correction.memory == 1.0:
        return seconds * correction.attention, compute
    bound = seconds * compute * correction.compute
    total = bound + seconds * (1.0 - compute) * correction.memory
    return total * correction.attention, bound / total if total else 0.0
