"""Tables of the catalogue: quantiles of lengths, outputs by prompt, parameters of arrivals, profiles of a day."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmsim.catalog import find, names
from llmsim.errors import CatalogError
from llmsim.workload.distributions import ConditionalTable, QuantileTable

_KIND = "workloads/tables"


@dataclass(frozen=True, slots=True)
class LengthTable:
    """Prompt and output lengths of one service; ``conditional`` gives outputs by prompt, where that was fitted."""

    name: str
    title: str
    prompt: QuantileTable
    output: QuantileTable
    conditional: ConditionalTable | None
    arrivals: dict[str, Any] = field(default_factory=dict)


def load_table(name: str) -> LengthTable:
    """Return the table ``name`` of `workloads/tables`.

    Raises:
        CatalogError: there is no such table, or it is not a table of lengths.
    """
    record = load_record(name)
    try:
        conditional = record.get("conditional")
        return LengthTable(
            name=name,
            title=str(record["title"]),
            prompt=quantile_table(record["percent"], record["prompt"]),
            output=quantile_table(record["percent"], record["output"]),
            conditional=None if conditional is None else _conditional(conditional),
            arrivals=dict(record.get("arrivals", {})),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CatalogError(f"{_KIND}/{name}.yaml: not a table of lengths ({error})") from error


def load_record(name: str, kind: str = _KIND) -> dict[str, Any]:
    """Return the mapping in the file ``name`` of ``kind``.

    Raises:
        CatalogError: there is no such file, or it holds no mapping.
    """
    import yaml

    path = find(kind, name)
    try:
        record = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise CatalogError(f"{kind}/{name}.yaml: {error}") from error
    if not isinstance(record, dict):
        raise CatalogError(f"{kind}/{name}.yaml: must hold a mapping")
    return record


def table_names() -> list[str]:
    """Return the names of all tables."""
    return names(_KIND)


def quantile_table(percent: list[float], values: list[float]) -> QuantileTable:
    """Return the table with ``values`` in tokens at ``percent``.

    Raises:
        ValueError: the percentages do not rise from 0 to 100, or the values fall or lie below 1.
    """
    points, tokens = np.asarray(percent, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if points.shape != tokens.shape or len(points) < 2:
        raise ValueError("needs one value for each percentage")
    if points[0] != 0.0 or points[-1] != 100.0 or (np.diff(points) <= 0.0).any():
        raise ValueError("percentages must rise from 0 to 100")
    if tokens[0] < 1.0 or (np.diff(tokens) < 0.0).any():
        raise ValueError("values must not fall, nor lie below 1")
    return QuantileTable(points, tokens)


def _conditional(record: dict[str, Any]) -> ConditionalTable:
    rows = [quantile_table(record["percent"], row) for row in record["output"]]
    edges = np.asarray(record["prompt_edges"], dtype=np.float64)
    if len(edges) != len(rows) + 1 or (np.diff(edges) <= 0.0).any():
        raise ValueError("conditional.prompt_edges must rise, one more than there are rows")
    return ConditionalTable(edges, rows[0].percent, np.stack([row.values for row in rows]))
