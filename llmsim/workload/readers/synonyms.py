"""Names under which times, prompt tokens and output tokens go in files of no known format."""

from collections.abc import Iterable

TIME_NAMES = (
    "arrival_s", "arrived_at", "arrival_time", "arrival", "arrival_timestamp", "arrival_ts", "timestamp", "time",
    "time_s", "ts", "created_time", "created_at", "start_time", "request_time", "timestamp_s", "arrival_time_s",
    "timestamp_ms", "arrival_ms", "arrival_time_ms", "time_ms", "timestamp_us", "timestamp_ns", "datetime", "date",
    "received_at", "request_received_at", "requested_at", "started_at", "@timestamp",
)  # fmt: skip
# Stamps that a server takes itself, behind its tokenizer; a client's clock may stand beside them.
ENGINE_TIME_NAMES = ("queued_ts", "queued_s", "queued_time")
PROMPT_NAMES = (
    "prompt_tokens", "input_tokens", "num_prefill_tokens", "num_prompt_tokens", "num_input_tokens", "input_length",
    "prompt_length", "input_len", "prompt_len", "input_toks", "prompt_toks", "context_tokens", "contexttokens",
    "request_tokens", "prefill_tokens", "prompt_token_count", "input_token_count", "prompttokencount", "isl",
    "prompt_size", "input_size", "input", "prompt",
)  # fmt: skip
OUTPUT_NAMES = (
    "output_tokens", "completion_tokens", "num_decode_tokens", "num_output_tokens", "num_completion_tokens",
    "generated_tokens", "generatedtokens", "output_length", "completion_length", "output_len", "completion_len",
    "output_toks", "response_tokens", "decode_tokens", "completion_token_count", "output_token_count",
    "completiontokencount", "osl", "token_size", "output_size", "max_tokens", "output", "completion", "response",
)  # fmt: skip
SESSION_NAMES = ("session_id", "session", "conversation_id", "chat_id", "user_id")
TENANT_NAMES = ("tenant", "client_id", "client", "model")
PRIORITY_NAMES = ("priority", "prio")
# What an access log says of how a request ended, as an HTTP status.
STATUS_NAMES = ("status_code", "http_status", "http_status_code", "response_code", "response_status", "status")
DEADLINE_NAMES = ("deadline_s", "deadline")
SLACK_NAMES = ("slack_s", "slack")


# What a column may mean -> the names by which it is known.
MEANINGS = {
    "time": TIME_NAMES, "prompt": PROMPT_NAMES, "output": OUTPUT_NAMES, "session": SESSION_NAMES,
    "tenant": TENANT_NAMES, "status": STATUS_NAMES,
}  # fmt: skip


def normal(name: str) -> str:
    """Return ``name`` in lower case with words joined by underscores."""
    return "_".join(str(name).strip().lower().replace("-", " ").replace("_", " ").split())


def pick(synonyms: Iterable[str], names: Iterable[str]) -> str | None:
    """Return the one of ``names`` that stands first in the list of ``synonyms``, or None.

    A name with dots, as logs of nested records have them, goes by its last part too: ``usage.prompt_tokens``.
    """
    every = list(names)
    by_normal: dict[str, str] = {}
    for name in every:
        by_normal.setdefault(normal(name), name)
    for name in every:
        by_normal.setdefault(normal(name.rpartition(".")[2]), name)
    return next((by_normal[synonym] for synonym in synonyms if synonym in by_normal), None)


def unit_of(name: str) -> str | None:
    """Return the unit that a column states in its name, such as ms for ``timestamp_ms``."""
    ending = normal(name).rsplit("_", 1)[-1]
    return ending if ending in ("s", "ms", "us", "ns") else None
