"""All that was measured, together: one vector of residuals over the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from llmsim.calibration.fit import Layout
from llmsim.calibration.measured import Floats, Load, Measured, Passes, Totals
from llmsim.calibration.pricing import KernelsSource, PassesSource
from llmsim.calibration.replay import LoadSource, TotalsSource
from llmsim.calibration.source import Played, Source
from llmsim.schema import Resolved

Progress = Callable[[int], None]


class Problem:
    """All sources together: one vector of residuals."""

    def __init__(self, sources: Sequence[Source], progress: Progress | None = None) -> None:
        self.sources = list(sources)
        self._progress = progress
        self._cache: dict[tuple[int, tuple[tuple[str, float], ...]], Played] = {}
        self.evaluations = 0
        kinds = [kind for source in sources for kind in source.kinds]
        index = [number for number, source in enumerate(sources) for _ in source.kinds]
        names = [(number, block) for number, source in enumerate(sources) for block in source.blocks]
        places = {name: place for place, name in enumerate(dict.fromkeys(names))}
        self.layout = Layout(kinds, np.array(index), np.array([places[name] for name in names]))

    def play(self, source: int, values: Mapping[str, float]) -> Played:
        """Return what one source gives; what was asked before is remembered."""
        key = source, tuple(sorted(values.items()))
        if key not in self._cache:
            self._cache[key] = self.sources[source].play(values)
        return self._cache[key]

    def residuals(self, values: Mapping[str, float]) -> Floats:
        """Return the residuals of all sources."""
        played = [self.play(index, values).residuals for index in range(len(self.sources))]
        self.evaluations += 1
        if self._progress is not None:
            self._progress(self.evaluations)
        return np.concatenate(played)


def source_of(part: Measured, resolved: Resolved) -> Source:
    """Return what a fit sees of a measured file, replayed or priced in a scenario."""
    if isinstance(part, Load):
        return LoadSource(part, resolved)
    if isinstance(part, Totals):
        return TotalsSource(part, resolved)
    return PassesSource(part, resolved) if isinstance(part, Passes) else KernelsSource(part, resolved)
