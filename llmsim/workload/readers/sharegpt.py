"""ShareGPT files: a JSON list of conversations, or of lengths that were counted beforehand."""

import json
from collections.abc import Iterator
from typing import Any, TextIO

from llmsim.errors import TraceError
from llmsim.workload.readers.files import open_text
from llmsim.workload.readers.lines import estimated_tokens
from llmsim.workload.readers.rows import Reading, Row
from llmsim.workload.readers.synonyms import OUTPUT_NAMES, PROMPT_NAMES, pick
from llmsim.workload.readers.table import shortened, whole_number

_BLOCK = 1 << 20


def read_sharegpt(reading: Reading) -> Iterator[Row]:
    """Yield one row a conversation (its first exchange, as vLLM does), or one an answer with ``turns: all``.

    With ``turns: all`` the prompt of an answer is everything said before it.  ``prune`` drops what vLLM
    drops: prompts or outputs under 4 tokens, prompts over 1024, both together over 2048.

    Raises:
        TraceError: the list or one of its items is broken; the message gives the item's number.
    """
    with open_text(reading.path) as text:
        for number, item in enumerate(list_items(text, reading.name), start=1):
            place = f"{reading.name}:row {number}"
            for turn, (prompt, output) in enumerate(_exchanges(item, reading, place)):
                if reading.options.prune and not _kept(prompt, output):
                    continue
                session = str(item.get("id", number)) if isinstance(item, dict) else None
                yield Row(number, None, prompt, output, session_id=session if turn or _several(reading) else None)


def list_items(text: TextIO, name: str) -> Iterator[Any]:
    """Yield the items of a JSON list, or of JSON objects one after another, without holding the file.

    Raises:
        TraceError: it is not JSON; the message gives the number of the item.
    """
    decoder = json.JSONDecoder()
    buffer = text.read(_BLOCK)
    position = _skip(buffer, 0, "")
    position += buffer[position : position + 1] == "["
    number = 0
    while True:
        position = _skip(buffer, position, ",")
        if position >= len(buffer):
            buffer, position = text.read(_BLOCK), 0
            if not buffer:
                return
            continue
        if buffer[position] == "]":
            return
        try:
            item, position = decoder.raw_decode(buffer, position)
        except json.JSONDecodeError as error:
            broken = error.pos < len(buffer) - 16 and not error.msg.startswith("Unterminated string")
            more = "" if broken else text.read(max(_BLOCK, len(buffer) - position))  # doubles while an item goes on
            if not more:
                raise TraceError(f"{name}:row {number + 1}: is not JSON ({error.msg})") from None
            buffer, position = buffer[position:] + more, 0
            continue
        number += 1
        yield item


def _skip(buffer: str, position: int, also: str) -> int:
    while position < len(buffer) and (buffer[position].isspace() or buffer[position] in also):
        position += 1
    return position


def _exchanges(item: Any, reading: Reading, place: str) -> Iterator[tuple[int, int]]:
    if isinstance(item, list) and len(item) == 2:
        yield _counted(item[0], item[1], place)
    elif isinstance(item, dict) and "conversations" in item:
        yield from _turns(item["conversations"], reading, place)
    elif isinstance(item, dict):
        prompt, output = pick(PROMPT_NAMES, item), pick(OUTPUT_NAMES, item)
        if prompt is None or output is None:
            known = "conversations, or prompt_len and output_len"
            raise TraceError(f"{place}: has no {known} (got {', '.join(item) or 'nothing'})")
        yield _counted(item[prompt], item[output], place)
    else:
        raise TraceError(f"{place}: is neither a conversation nor a pair of lengths (got {shortened(item)})")


def _turns(turns: Any, reading: Reading, place: str) -> Iterator[tuple[int, int]]:
    try:
        texts = [(str(turn["from"]), turn["value"]) for turn in turns]
        if not all(isinstance(value, str) for _, value in texts):
            raise TypeError
    except (TypeError, KeyError):
        raise TraceError(f"{place}: column conversations: needs turns with from and value") from None
    if len(texts) < 2:
        return
    tokens = [estimated_tokens(value, reading) for _, value in texts]
    if not _several(reading):
        yield tokens[0], tokens[1]
        return
    for i, (speaker, _) in enumerate(texts):
        if i and speaker in ("gpt", "assistant", "chatgpt", "bard", "bing"):
            yield sum(tokens[:i]), tokens[i]


def _counted(prompt: Any, output: Any, place: str) -> tuple[int, int]:
    try:
        return whole_number(prompt), whole_number(output)
    except ValueError as error:
        raise TraceError(f"{place}: {error}") from None


def _several(reading: Reading) -> bool:
    return reading.options.turns == "all"


def _kept(prompt: int, output: int) -> bool:
    # vllm/benchmarks/datasets/datasets.py, is_valid_sequence, vLLM 0.33.0
    return prompt >= 4 and output >= 4 and prompt <= 1024 and prompt + output <= 2048
