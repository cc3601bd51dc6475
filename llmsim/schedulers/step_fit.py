"""What a step takes, learnt from the steps that have run: recursive least squares, the recent ones counting most.

``seconds = base + prompt * P + sequence * D + context * C`` for a step with P prompt tokens and D sequences that
decode, which attend to C tokens.  Model, device and software enter through the measured seconds alone.

Source: exponentially weighted recursive least squares, e.g. Haykin, Adaptive Filter Theory, chapter 10.
"""

from __future__ import annotations

# Features are scaled to numbers of about one, seconds to milliseconds, so that one prior suits all coefficients.
_SCALE = (1.0, 1e-3, 1e-2, 1e-5)
# The variance of what is assumed before the first step: that every coefficient is about zero.
_PRIOR = 1e4


class StepFit:
    """The seconds of a step as a linear function of what it computes.

    Args:
        memory: steps after which a measurement counts 1 / e of a new one.
    """

    __slots__ = ("_covariance", "_forget", "_weights", "steps")

    def __init__(self, memory: float) -> None:
        size = len(_SCALE)
        self.steps = 0
        self._forget = 1.0 - 1.0 / memory
        self._weights = [0.0] * size
        self._covariance = [[_PRIOR * (row == column) for column in range(size)] for row in range(size)]

    def learn(self, prompt: int, decodes: int, context: int, seconds: float) -> None:
        """Take note of a step that has run."""
        x = _features(prompt, decodes, context)
        p = self._covariance
        gain = [sum(a * b for a, b in zip(row, x, strict=True)) for row in p]
        scale = self._forget + sum(a * b for a, b in zip(gain, x, strict=True))
        miss = seconds * 1e3 - sum(a * b for a, b in zip(self._weights, x, strict=True))
        self._weights = [weight + part * miss / scale for weight, part in zip(self._weights, gain, strict=True)]
        # A direction in which nothing is learnt for long would else become uncertain without limit.
        grow = [self._forget**-0.5 if p[place][place] < _PRIOR else 1.0 for place in range(len(p))]
        for row, left, tall in zip(p, gain, grow, strict=True):
            for column, (right, wide) in enumerate(zip(gain, grow, strict=True)):
                row[column] = (row[column] - left * right / scale) * tall * wide
        self.steps += 1

    def seconds(self, prompt: int, decodes: int, context: int) -> float:
        """Return what a step would take."""
        x = _features(prompt, decodes, context)
        return max(0.0, sum(a * b for a, b in zip(self._weights, x, strict=True)) * 1e-3)

    @property
    def per_prompt_token(self) -> float:
        """Seconds that one more prompt token takes; not less than a nanosecond."""
        return max(1e-9, self._weights[1] * _SCALE[1] * 1e-3)


def _features(prompt: int, decodes: int, context: int) -> tuple[float, ...]:
    values = (1, prompt, decodes, context)
    return tuple(value * scale for value, scale in zip(values, _SCALE, strict=True))
