"""What is asked of the cluster: a request, and the prefix it shares with others."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prefix:
    """Content of a prompt, as block identifiers: equal leading identifiers mean equal leading text.

    ``hash_ids[i]`` names the tokens ``[i * block_tokens, (i + 1) * block_tokens)`` of the prompt; the
    last block may be partial (Mooncake and Bailian traces have this form).  There may be fewer identifiers
    than the prompt has blocks; the tokens beyond them are like no other prompt's.
    """

    hash_ids: tuple[int, ...]
    block_tokens: int


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as its client sends it.  Times in seconds from the start of the simulation."""

    id: str
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    model: str | None = None
    tenant: str | None = None
    priority: int = 0
    deadline_s: float | None = None
    session_id: str | None = None
    parent: str | None = None
    prefix: Prefix | None = None
