"""What is asked of the cluster: a request, and what its text shares with others."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prefix:
    """Content of a prompt, as block identifiers: equal leading identifiers mean equal leading text.

    ``hash_ids[i]`` names the tokens ``[i * block_tokens, (i + 1) * block_tokens)`` of the prompt; the
    last block may be partial (Mooncake and Bailian traces have this form).  There may be fewer identifiers
    than the prompt has blocks; the tokens beyond them are like no other prompt's.  With ``answer`` the
    identifiers go on behind the prompt and name what the answer will be: then a prompt that contains it finds it.
    """

    hash_ids: tuple[int, ...]
    block_tokens: int
    answer: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """Content of a turn, prompt and answer, as named parts: equal leading parts mean equal leading text.

    ``parts`` are (name, tokens) from the beginning, such as a system prompt or the turns before a chat forked;
    ``name`` is the name of all that follows them, to the end of the answer.  A turn whose prompt contains the whole
    turn before it has that one's parts and name.  One whose history was cut in front needs another name,
    for every token has moved.  Parts that lie side by side need different names.
    """

    parts: tuple[tuple[str, int], ...]
    name: str


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
    prefix: Prefix | History | None = None
    turn: int | None = None
