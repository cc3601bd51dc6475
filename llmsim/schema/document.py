"""A scenario: everything that a run depends on, checked, frozen, and able to say where each value came from."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError

from llmsim.errors import ScenarioError
from llmsim.schema.overrides import ONE_WORD, full_key, normalise, override
from llmsim.schema.problems import translate
from llmsim.schema.sections import (
    ClusterSection,
    DeploymentSection,
    EngineSection,
    ModelTransformSection,
    OutputSection,
    PerformanceSection,
    SchedulerSection,
    Section,
    WorkloadSection,
)
from llmsim.schema.source import Key, Source, value_of
from llmsim.schema.values import NameOrMapping, Number, Text, Whole


def _named(value: Any) -> Any:
    return value if isinstance(value, dict | Section) else {"name": value}


class Scenario(Section):
    """One scenario, as a user wrote it: values that nobody gave are left to the engine's preset.

    ``resolve(scenario)`` fills them in.  Two scenarios are equal when they say the same.
    """

    llmsim: Literal[1] = Field(1, description="version of this schema")
    name: Text | None = Field(None, description="name of the run's folder; default: model and device")
    seed: Annotated[Whole, Field(ge=0)] = Field(0, description="of every random stream")
    cluster: Annotated[ClusterSection, BeforeValidator(_named)]
    model: NameOrMapping = Field(description="name of the catalogue, path to a config.json, or its content")
    model_transform: ModelTransformSection = ModelTransformSection()
    engine: EngineSection = Field(default_factory=lambda: EngineSection())
    deployment: DeploymentSection = DeploymentSection()
    scheduler: Annotated[SchedulerSection, BeforeValidator(_named)] = SchedulerSection()
    performance: PerformanceSection = Field(default_factory=PerformanceSection)
    workload: WorkloadSection = Field(default_factory=WorkloadSection)
    slo: dict[str, Number] = Field({}, description="limits of metrics, such as p99_ttft_ms: 500")
    goodput: dict[Literal["ttft", "ttfn", "tpot", "e2el"], Annotated[Number, Field(gt=0)]] = Field(
        {}, description="most milliseconds a good request may take"
    )
    output: OutputSection = Field(default_factory=OutputSection)

    _source: Source = PrivateAttr(default_factory=lambda: Source({}))

    @classmethod
    def from_source(cls, source: Source) -> "Scenario":
        """Return the scenario that ``source`` describes.

        Raises:
            ScenarioError: with one line for each thing that is wrong.
        """
        source = normalise(source)
        try:
            scenario = cls.model_validate(source.data)
        except ValidationError as error:
            raise ScenarioError("\n".join(translate(error, cls, source))) from None
        scenario._source = source
        return scenario

    def where(self, *key: str | int) -> str:
        """Return ``"x.yaml:6:3: engine.max_num_seqs"``: where the user gave ``key``, for messages."""
        return self._source.where(key)

    def place(self, *key: str | int) -> tuple[str | int, ...]:
        """Return ``key``, or the first key below it that the user gave when only those have a place."""
        if len(key) < 2 or key in self._source.marks:
            return key
        return next((mark for mark in self._source.marks if mark[: len(key)] == key), key)

    def gives(self, *key: str) -> bool:
        """Return whether the user gave ``key``, rather than leaving it to a default."""
        inner: Any = self._source.data
        for part in key:
            if not isinstance(inner, Mapping) or inner.get(part) is None:
                return False
            inner = inner[part]
        return True

    def with_(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> "Scenario":
        """Return a copy with other values, by dotted key: ``with_({"engine.tensor_parallel_size": 4})``.

        Short names work too (``gpu``, ``request_rate``, any engine flag).  A text is read as YAML, so
        ``"4"`` is a number and ``"[1, 2]"`` a list.

        Raises:
            ScenarioError: a key is unknown or a value is wrong.
        """
        flat: dict[Key, Any] = {}
        for name, value in {**(values or {}), **more}.items():
            flat[full_key(name, value)] = value_of(value) if isinstance(value, str) else value
        return Scenario.from_source(override(self._source, flat, {}))

    def to_dict(self) -> dict[str, Any]:
        """Return what the user gave, as plain JSON types; ``load`` of it gives an equal scenario."""
        plain: dict[str, Any] = _plain(self.model_dump(mode="json", exclude_unset=True))
        return plain

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == other.to_dict() if isinstance(other, Scenario) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.sha256)

    @property
    def sha256(self) -> str:
        """Hash of everything that can change a result: all but the name and the output.

        The content of the files that it names (trace, config.json) is not part of it.
        """
        told = {key: value for key, value in self.to_dict().items() if key not in ("name", "output", "slo")}
        return hashlib.sha256(json.dumps(told, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return "inf" if isinstance(value, float) and math.isinf(value) else value


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a scenario file, for editors."""
    schema = Scenario.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "llmsim scenario"
    schema["properties"]["extends"] = {"type": "string", "description": "scenario file that this one adds to"}
    for key in ONE_WORD:
        owner = schema if len(key) == 1 else schema["$defs"][f"{str(key[0]).capitalize()}Section"]
        section = owner["properties"][key[-1]]
        word = {"type": "integer" if key[-1] == "closed_loop" else "string"}
        owner["properties"][key[-1]] = {"anyOf": [word, section], "description": section.get("description", "")}
    return schema
