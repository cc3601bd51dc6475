"""The formats of traces: one dict from name to what it is and how it is read."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from llmsim.errors import TraceError
from llmsim.workload.readers import synonyms
from llmsim.workload.readers.bailian import read_bailian
from llmsim.workload.readers.files import head
from llmsim.workload.readers.lines import Keys, flattened, objects, read_lines
from llmsim.workload.readers.rows import Reading, Row
from llmsim.workload.readers.sharegpt import read_sharegpt
from llmsim.workload.readers.table import Columns, read_table
from llmsim.workload.readers.urgency import Urgency

Reader = Callable[[Reading], Iterator[Row]]


@dataclass(frozen=True, slots=True)
class Format:
    """A format of traces.

    ``read`` is None for ServeGen's client data, from which a workload is generated (`llmsim.workload.servegen`).
    ``zero_output`` says what an output of 0 tokens means: a failed request to ``drop``, or ``one`` token at least.
    """

    name: str
    title: str
    read: Reader | None
    has_times: bool = True
    zero_output: Literal["drop", "one"] = "one"


def _table(columns: Columns) -> Reader:
    return lambda reading: read_table(reading, columns)


def _lines(keys: Keys) -> Reader:
    return lambda reading: read_lines(reading, keys)


_AZURE = _table(Columns("ContextTokens", "GeneratedTokens", "TIMESTAMP", "date"))


def _hashed(time_unit: str, block_tokens: int) -> Reader:
    keys = Keys(
        "input_length",
        "output_length",
        time="timestamp",
        time_unit=time_unit,
        hash_ids="hash_ids",
        block_tokens=block_tokens,
        session="session_id",
        delay="delay",
    )
    return _lines(keys)


def _read_vllm_custom(reading: Reading) -> Iterator[Row]:
    if reading.options.output_len is None and not _has_output(reading):
        reading.options.output_len = 256  # vllm bench serve --custom-output-len
        reading.note("no output_tokens in the file: 256 for each, as vLLM's --custom-output-len")
    counted = ("prompt_tokens", "prompt_len", "input_tokens", "input_len")
    with_count = next((key for key in counted if key in _first_keys(reading)), None)
    return read_lines(reading, Keys(with_count, "output_tokens", prompt_text="prompt"))


def _has_output(reading: Reading) -> bool:
    return "output_tokens" in _first_keys(reading)


def _first_keys(reading: Reading, *, nested: bool = False) -> list[str]:
    probe = objects(Reading(reading.path, reading.options))
    if not nested:
        return next((list(item) for _, item in probe), [])
    # What a failed request lacks, others have.
    return list(dict.fromkeys(name for _, item in islice(probe, 50) for name in flattened(item)))


def _read_generic_csv(reading: Reading) -> Iterator[Row]:
    header = header_of(head(reading.path))
    names = _named(header, reading)
    time = names["time"]
    columns = Columns(
        names["prompt"] or "",
        names["output"] or "",
        time,
        None if time is None else synonyms.unit_of(time),
        session=names["session"],
        tenant=names["tenant"],
        urgency=_urgency(header),
        status=names["status"],
    )
    return read_table(reading, columns)


def _read_generic_lines(reading: Reading) -> Iterator[Row]:
    header = _first_keys(reading, nested=True)
    names = _named(header, reading)
    time = names["time"]
    keys = Keys(
        names["prompt"],
        names["output"],
        time=time,
        time_unit=None if time is None else synonyms.unit_of(time),
        hash_ids="hash_ids",
        session=names["session"],
        tenant=names["tenant"],
        urgency=_urgency(header),
        status=names["status"],
        nested=any("." in name for name in names.values() if name),
    )
    return read_lines(reading, keys)


def _urgency(header: list[str]) -> Urgency | None:
    """Return the columns of priority and deadline, None where there are none."""
    every = (synonyms.PRIORITY_NAMES, synonyms.DEADLINE_NAMES, synonyms.SLACK_NAMES)
    names = [synonyms.pick(known, header) for known in every]
    return Urgency(*names) if any(names) else None


def _named(header: list[str], reading: Reading) -> dict[str, str | None]:
    told = reading.options.columns or {}
    found = ", ".join(header)[:200] or "nothing"
    for what, name in told.items():
        if name not in header:
            raise TraceError(f"{reading.name}: no column {name!r}, which columns.{what} names (got {found})")
    names = {what: told.get(what) or synonyms.pick(known, header) for what, known in synonyms.MEANINGS.items()}
    for what in ("prompt", "output"):
        if names[what] is None:
            raise TraceError(
                f"{reading.name}: no column with the number of {what} tokens (got {found})"
                "\nhint: tell which it is: trace: {columns: {prompt: ..., output: ...}}"
            )
    return names


def header_of(text: str) -> list[str]:
    """Return the names in the first line of a CSV."""
    return [name.strip() for name in next(csv.reader(text.splitlines()[:1]), [])]


_BURSTGPT = Columns("Request tokens", "Response tokens", "Timestamp", "s", tenant="Model")
_BURSTGPT_2 = Columns(
    "Request tokens", "Response tokens", "Timestamp", "s", session="Session ID", tenant="Model", served="Elapsed time"
)
_VIDUR = Columns("num_prefill_tokens", "num_decode_tokens", "arrived_at", "s")
_VIDUR_LENGTHS = Columns("num_prefill_tokens", "num_decode_tokens")
_VIDUR_DATED = Columns("PromptTokenCount", "CompletionTokenCount", ("Date", "Time"))
_LMCACHE = Keys(
    prompt_text="input", output_text="output", time="timestamp", time_unit="us", session="session_id", text_ids=True
)

FORMATS: dict[str, Format] = {
    item.name: item
    for item in (
        Format("azure_2023", "Azure LLM inference trace 2023", _AZURE),
        Format("azure_2024", "Azure LLM inference trace 2024", _AZURE),
        Format("azure_lmm_2025", "Azure multimodal inference trace 2025", _AZURE),
        Format("mooncake", "Mooncake (milliseconds, blocks of 512 tokens)", _hashed("ms", 512)),
        Format("timed_trace", "vLLM timed trace (seconds, blocks of 16 tokens)", _hashed("s", 16)),
        Format("bailian", "Bailian / Qwen (seconds, blocks of 16 tokens, chats)", read_bailian),
        Format("burstgpt_v1", "BurstGPT, 6 columns", _table(_BURSTGPT), zero_output="drop"),
        Format("burstgpt_v2", "BurstGPT, 8 columns", _table(_BURSTGPT_2), zero_output="drop"),
        Format("sharegpt", "ShareGPT (JSON list)", read_sharegpt, has_times=False),
        Format("vllm_custom", "vLLM custom dataset", _read_vllm_custom, has_times=False),
        Format("vidur", "Vidur (arrived_at, tokens)", _table(_VIDUR)),
        Format("vidur_lengths", "Vidur lengths (no times)", _table(_VIDUR_LENGTHS), has_times=False),
        Format("vidur_dated", "Vidur (Date, Time, token counts)", _table(_VIDUR_DATED)),
        Format("lmcache_agent", "LMCache agent sessions (text)", _lines(_LMCACHE)),
        Format("servegen", "ServeGen client data", None),
        Format("csv", "CSV with a header", _read_generic_csv),
        Format("csv_lengths", "CSV with a header, no times", _read_generic_csv, has_times=False),
        Format("jsonl", "JSON lines", _read_generic_lines),
        Format("jsonl_lengths", "JSON lines, no times", _read_generic_lines, has_times=False),
    )
}
ALIASES = {"azure": "azure_2023", "burstgpt": "burstgpt_v1", "vllm": "timed_trace", "qwen": "bailian"}
