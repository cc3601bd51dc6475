"""Bailian (Qwen) traces: chats whose turns name their parent turn."""

from collections.abc import Iterator

from llmsim.workload.readers.lines import Keys, read_lines
from llmsim.workload.readers.rows import Reading, Row

_KEYS = Keys(
    prompt="input_length",
    output="output_length",
    time="timestamp",
    time_unit="s",
    hash_ids="hash_ids",
    block_tokens=16,
    id="chat_id",
    parent="parent_chat_id",
)
_REMEMBERED = 1_000_000  # turns whose chat is known; an older parent starts a new chat


def read_bailian(reading: Reading) -> Iterator[Row]:
    """Yield rows whose session is the first turn of the chat; a parent of -1 means there is none."""
    chat_of: dict[str, str] = {}
    for row in read_lines(reading, _KEYS):
        if row.parent == "-1":
            row.parent = None
        if row.id is not None:
            row.session_id = row.id if row.parent is None else chat_of.get(row.parent, row.parent)
            chat_of[row.id] = row.session_id
            if len(chat_of) > _REMEMBERED:
                del chat_of[next(iter(chat_of))]
        yield row
