"""Traces of JSON objects, one a line."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llmsim.errors import TraceError
from llmsim.workload.readers.failures import has_failed
from llmsim.workload.readers.files import open_text
from llmsim.workload.readers.rows import Reading, Row
from llmsim.workload.readers.stamps import Stamp
from llmsim.workload.readers.table import EMPTY_HINT, MOST_TOKENS, shortened, stamp_reader, whole_number
from llmsim.workload.readers.urgency import Urgency
from llmsim.workload.request import Prefix

_TEXT_BLOCK = 16  # tokens of text that one identifier stands for, vLLM's block


@dataclass(frozen=True, slots=True)
class Keys:
    """Which key means what; ``prompt_text`` and ``output_text`` are texts whose tokens must be estimated.

    ``delay`` is the pause after the session's turn before, in milliseconds (aiperf's `mooncake_trace`); a row that
    has one may lack a time.  With ``text_ids`` prompts that begin alike get identifiers that begin alike.
    """

    prompt: str | None = None
    output: str | None = None
    prompt_text: str | None = None
    output_text: str | None = None
    time: str | None = None
    time_unit: str | None = None
    hash_ids: str | None = None
    block_tokens: int = 512
    id: str | None = None
    session: str | None = None
    parent: str | None = None
    delay: str | None = None
    text_ids: bool = False
    tenant: str | None = None
    urgency: Urgency | None = None
    status: str | None = None
    nested: bool = False  # keys with dots lead into objects: ``usage.prompt_tokens``


def objects(reading: Reading) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) for every line that is not blank.

    Raises:
        TraceError: a line is not a JSON object; the message gives its number.
    """
    with open_text(reading.path) as text:
        for number, line in enumerate(text, start=1):
            try:
                item = json.loads(line)
            except json.JSONDecodeError as error:
                if not line.strip():
                    reading.blank_rows += 1
                    continue
                where = f"{reading.name}:row {number}"
                raise TraceError(f"{where}: column {error.colno}: is not JSON ({error.msg})") from None
            if not isinstance(item, dict):
                raise TraceError(f"{reading.name}:row {number}: is not a JSON object (got {shortened(item)})")
            yield number, item


def read_lines(reading: Reading, keys: Keys) -> Iterator[Row]:
    """Yield the rows of a JSONL trace.

    Raises:
        TraceError: a row is broken; the message gives its number and the key.
    """
    stamp: Stamp | None = None
    time = keys.time
    last: dict[str, int] = {}  # the latest time of each session with pauses
    block_tokens = reading.options.block_tokens or keys.block_tokens
    for number, whole in objects(reading):
        item = flattened(whole) if keys.nested else whole
        if keys.status is not None and has_failed(item.get(keys.status)):
            reading.failed_rows += 1
            continue
        place = f"{reading.name}:row {number}"
        delay_ns = None if keys.delay is None else _delay(item, keys.delay, place)
        session = _name(item, keys.session)
        if time is not None and stamp is None and time in item:
            unit = reading.options.time_unit or keys.time_unit
            stamp = stamp_reader(reading, time, unit, item.get(time))
        time_ns = None
        if time is not None:
            if delay_ns is not None and session in last and item.get(time) is None:
                time_ns = last[session] + delay_ns
            elif stamp is None or time not in item:
                raise TraceError(f"{place}: column {time}: is missing (got {', '.join(item) or 'nothing'})")
            else:
                time_ns = _time(item, time, stamp, place)
            if keys.delay is not None and session is not None:
                last[session] = time_ns
        row = Row(
            number,
            time_ns,
            _prompt(item, keys, reading, place),
            _output(item, keys, reading, place),
            _text_prefix(item, keys, reading) if keys.text_ids else _prefix(item, keys.hash_ids, block_tokens, place),
            _name(item, keys.id),
            session,
            _name(item, keys.parent),
            _name(item, keys.tenant),
            delay_ns=delay_ns,
        )
        yield row if keys.urgency is None else keys.urgency.mark(row, item, place)


def flattened(item: dict[str, Any]) -> dict[str, Any]:
    """Return ``item`` with what its objects hold under keys with dots, beside its own keys."""
    flat = dict(item)
    for name, value in item.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": part for inner, part in flattened(value).items()}
    return flat


def estimated_tokens(text: str, reading: Reading) -> int:
    """Return the tokens of ``text``, at `ReadOptions.characters_per_token`, at least 1 unless it is empty."""
    per_token = reading.options.characters_per_token
    reading.note(f"token counts are estimates, {per_token:g} characters a token: the file holds text, not counts")
    return max(round(len(text) / per_token), min(1, len(text)))


def _prompt(item: dict[str, Any], keys: Keys, reading: Reading, place: str) -> int:
    if keys.prompt is not None and keys.prompt in item:
        return _whole(item, keys.prompt, place)
    if keys.prompt_text is not None:
        return _text_tokens(item, keys.prompt_text, reading, place)
    return _whole(item, keys.prompt or "", place)


def _output(item: dict[str, Any], keys: Keys, reading: Reading, place: str) -> int:
    if keys.output is not None and item.get(keys.output) is not None:
        return _whole(item, keys.output, place)
    if keys.output_text is not None:
        return _text_tokens(item, keys.output_text, reading, place)
    if reading.options.output_len is not None:
        return reading.options.output_len
    return _whole(item, keys.output or "", place)


def _text_tokens(item: dict[str, Any], key: str, reading: Reading, place: str) -> int:
    value = item.get(key)
    if isinstance(value, list):  # already tokens
        return len(value)
    if not isinstance(value, str):
        raise TraceError(f"{place}: column {key}: {shortened(value)} is not a text")
    return estimated_tokens(value, reading)


def _whole(item: dict[str, Any], key: str, place: str) -> int:
    value = item.get(key)
    if type(value) is int and 0 <= value <= MOST_TOKENS:
        return value
    if key not in item:
        raise TraceError(f"{place}: column {key}: is missing (got {', '.join(item) or 'nothing'})")
    try:
        return whole_number(value)
    except ValueError as error:
        hint = EMPTY_HINT if value in (None, "") else ""
        raise TraceError(f"{place}: column {key}: {error}{hint}") from None


def _time(item: dict[str, Any], key: str, stamp: Stamp, place: str) -> int:
    try:
        return stamp(item[key])
    except KeyError:
        raise TraceError(f"{place}: column {key}: is missing (got {', '.join(item) or 'nothing'})") from None
    except ValueError:
        raise TraceError(f"{place}: column {key}: {shortened(item[key])} is not a time") from None


def _delay(item: dict[str, Any], key: str, place: str) -> int | None:
    value = item.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise TraceError(f"{place}: column {key}: {shortened(value)} is not a pause in milliseconds")
    return round(value * 1e6)


def _text_prefix(item: dict[str, Any], keys: Keys, reading: Reading) -> Prefix | None:
    """Return identifiers of prompt and answer, each the digest of all text up to the end of its block."""
    prompt, output = item.get(keys.prompt_text or ""), item.get(keys.output_text or "")
    if not isinstance(prompt, str) or not prompt:
        return None
    text = prompt + output if isinstance(output, str) else prompt
    characters = _TEXT_BLOCK * reading.options.characters_per_token
    digest, identifiers = hashlib.blake2b(digest_size=7), []
    for block in range(math.ceil(len(text) / characters)):
        digest.update(text[round(block * characters) : round((block + 1) * characters)].encode())
        identifiers.append(int.from_bytes(digest.copy().digest()))
    return Prefix(tuple(identifiers), _TEXT_BLOCK, answer=True)


def _prefix(item: dict[str, Any], key: str | None, block_tokens: int, place: str) -> Prefix | None:
    ids = None if key is None else item.get(key)
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(type(number) is int for number in ids):
        raise TraceError(f"{place}: column {key}: {shortened(ids)} is not a list of whole numbers")
    return Prefix(tuple(ids), block_tokens) if ids else None


def _name(item: dict[str, Any], key: str | None) -> str | None:
    value = None if key is None else item.get(key)
    return None if value is None or value == "" else str(value)
