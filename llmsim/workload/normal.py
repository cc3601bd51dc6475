"""The normal distribution, vectorised: NumPy has no inverse of it, and SciPy is not a dependency."""

import math

import numpy as np
from numpy.typing import NDArray

# Coefficients of algorithm AS 241, routine PPND16 (M. J. Wichura, Applied Statistics 37, 1988, pages
# 477-484), highest power first; relative error about 1e-16.
_CENTRE = (
    (2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
     13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608),
    (5226.495278852545925, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
     5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1.0),
)  # fmt: skip
_SHOULDER = (
    (7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
     3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
     0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0),
)  # fmt: skip
_TAIL = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386, 0.026532189526576123093,
     0.29656057182850489123, 1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772),
    (2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5, 7.868691311456132591e-4,
     0.0148753612908506148525, 0.13692988092273580531, 0.59983220655588793769, 1.0),
)  # fmt: skip


def normal_quantile(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard normal quantile of each ``probability``; 0 and 1 give the largest finite values."""
    p = np.clip(np.asarray(probability, dtype=np.float64), 1e-300, 1.0 - 2.0**-53)
    q = p - 0.5
    centre = np.abs(q) <= 0.425
    result = np.empty_like(p)
    r = 0.180625 - q[centre] ** 2
    result[centre] = q[centre] * np.polyval(_CENTRE[0], r) / np.polyval(_CENTRE[1], r)
    outer = ~centre
    if outer.any():
        r = np.sqrt(-np.log(np.minimum(p[outer], 1.0 - p[outer])))
        near = r <= 5.0
        value = np.empty_like(r)
        shifted = r[near] - 1.6
        value[near] = np.polyval(_SHOULDER[0], shifted) / np.polyval(_SHOULDER[1], shifted)
        shifted = r[~near] - 5.0
        value[~near] = np.polyval(_TAIL[0], shifted) / np.polyval(_TAIL[1], shifted)
        result[outer] = np.copysign(value, q[outer])
    return result


def normal_probability(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard normal distribution function at each ``value``."""
    root = math.sqrt(0.5)
    return np.array([0.5 * math.erfc(-x * root) for x in np.asarray(value, dtype=np.float64).tolist()])
