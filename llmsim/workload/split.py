"""Long inputs cut into joined sub-requests: each piece is a request of its own, and the last one ends them all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from llmsim.errors import ScenarioError
from llmsim.workload.parameters import Parameters
from llmsim.workload.protocol import Workload, ended_at
from llmsim.workload.request import Prefix, Request
from llmsim.workload.window import cut_prefix

if TYPE_CHECKING:
    from llmsim.results.records import Record

# Ends of the names of what a request becomes.
PIECE, MERGE = "piece", "merge"


@dataclass(frozen=True, slots=True)
class Cut:
    """How inputs are cut: pieces of ``chunk`` tokens, each with the last ``overlap`` tokens of the one before it.

    Every piece answers with ``piece_output`` tokens, None: as many as the whole was asked for.  With ``merge`` a last
    request reads all their answers and ``merge_prompt`` tokens of instructions, and gives the answer that was asked
    for; without it the pieces' answers are the result, and the output of the joined request is theirs together.
    """

    chunk: int
    overlap: int = 0
    merge: bool = False
    piece_output: int | None = None
    merge_prompt: int = 0

    def pieces(self, prompt: int) -> list[int]:
        """Return the prompt tokens of each piece of an input of ``prompt`` tokens, overlaps included."""
        if prompt <= self.chunk:
            return [prompt]
        step = self.chunk - self.overlap
        count = 1 + -(-(prompt - self.chunk) // step)
        return [self.chunk] * (count - 1) + [prompt - (count - 1) * step]


@dataclass(slots=True)
class _Joined:
    """A request that was cut, while its pieces are under way."""

    request: Request
    waiting: int
    pieces: list[Record] = field(default_factory=list)
    merging: bool = False


@dataclass(slots=True)
class Split:
    """The requests of another workload, long ones cut.  ``joined`` has the records of the requests as they were asked.

    Pieces arrive together, with the request as their ``parent`` and in its session.  What follows in the other workload
    follows from the end of the whole.  A piece keeps what is known of the beginning of its text if it is the first.
    """

    inner: Workload
    cut: Cut
    joined: list[Record] = field(default_factory=list)
    _open: dict[str, _Joined] = field(default_factory=dict)
    _whole: dict[str, str] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """One line."""
        merged = ", then merged" if self.cut.merge else ""
        return f"{self.inner.description}, inputs cut at {self.cut.chunk} tokens{merged}"

    @property
    def warnings(self) -> list[str]:
        """What the inner workload warns of."""
        return self.inner.warnings

    @property
    def expected_requests(self) -> int | None:
        """Unknown: how many pieces there will be is not known beforehand."""
        return None

    def start(self) -> Iterator[Request]:
        """Stream the requests and pieces from the beginning."""
        self.joined.clear()
        self._open.clear()
        self._whole.clear()
        return (piece for request in self.inner.start() for piece in self._pieces(request))

    def on_end(self, record: Record) -> Iterable[Request]:
        """Return the merge request when the last piece has ended, and what follows when the whole has."""
        name = self._whole.pop(record.id, None)
        if name is None:
            self.joined.append(record)
            return self._cut_all(self.inner.on_end(record))
        whole = self._open[name]
        whole.pieces.append(record)
        whole.waiting -= 1
        if whole.waiting:
            return []
        if self.cut.merge and not whole.merging and all(piece.status == "finished" for piece in whole.pieces):
            return [self._merge(whole)]
        del self._open[name]
        done = joined_record(whole.request, whole.pieces)
        self.joined.append(done)
        return self._cut_all(self.inner.on_end(done))

    def _cut_all(self, requests: Iterable[Request]) -> list[Request]:
        return [piece for request in requests for piece in self._pieces(request)]

    def _pieces(self, request: Request) -> list[Request]:
        prompts = self.cut.pieces(request.prompt_tokens)
        if len(prompts) == 1:
            return [request]
        self._open[request.id] = _Joined(request, len(prompts))
        pieces = []
        for index, prompt in enumerate(prompts):
            prefix = request.prefix if index == 0 else None
            piece = replace(
                request,
                id=f"{request.id}/{PIECE}{index}",
                prompt_tokens=prompt,
                output_tokens=self.cut.piece_output or request.output_tokens,
                parent=request.id,
                session_id=request.session_id or request.id,
                prefix=cut_prefix(prefix, prompt) if isinstance(prefix, Prefix) else None,
            )
            self._whole[piece.id] = request.id
            pieces.append(piece)
        return pieces

    def _merge(self, whole: _Joined) -> Request:
        whole.merging, whole.waiting = True, 1
        request = whole.request
        answers = sum(piece.output_tokens for piece in whole.pieces)
        merge = replace(
            request,
            id=f"{request.id}/{MERGE}",
            arrival_s=max(map(ended_at, whole.pieces)),
            prompt_tokens=max(answers + self.cut.merge_prompt, 1),
            parent=request.id,
            session_id=request.session_id or request.id,
            prefix=None,
        )
        self._whole[merge.id] = request.id
        return merge


def joined_record(request: Request, pieces: list[Record]) -> Record:
    """Return the record of the whole: from its arrival to the end of the last piece, all their tokens together.

    Its first token is the first of the last request to begin answering: until then nothing is said of the whole.  It
    has finished only if every piece has; else it has the status and reason of the first that has not.
    """
    failed = next((piece for piece in pieces if piece.status != "finished"), None)
    firsts = [piece.first_token_s for piece in pieces if piece.first_token_s is not None]
    last = max(pieces, key=ended_at)
    merged = last.id.endswith(f"/{MERGE}")
    return replace(
        failed or last,
        id=request.id,
        arrival_s=request.arrival_s,
        admitted_s=min((piece.admitted_s for piece in pieces if piece.admitted_s is not None), default=None),
        first_token_s=max(firsts, default=None),
        finished_s=None if failed else last.finished_s,
        prompt_tokens=request.prompt_tokens,
        output_tokens=last.output_tokens if merged else sum(piece.output_tokens for piece in pieces),
        cached_tokens=sum(piece.cached_tokens for piece in pieces),
        preemptions=sum(piece.preemptions for piece in pieces),
        session_id=request.session_id,
        bill=None,
    )


def read_cut(values: dict[str, Any], max_model_len: int) -> Cut:
    """Return what ``split_long: {chunk, overlap, merge, piece_output, merge_prompt}`` says.

    Raises:
        ScenarioError: an option is wrong, or pieces would not fit the context window.
    """
    where = "workload.split_long"
    options = Parameters(values, where)
    chunk, overlap = options.whole("chunk", least=1), options.whole("overlap", 0, least=0)
    cut = Cut(
        chunk,
        overlap,
        options.flag("merge", False),
        options.optional_whole("piece_output", least=1),
        options.whole("merge_prompt", 0, least=0),
    )
    options.finish()
    if overlap >= chunk:
        raise ScenarioError(f"{where}.overlap: must be less than chunk, {chunk} (got {overlap})")
    if chunk > max_model_len:
        raise ScenarioError(f"{where}.chunk: must be at most max_model_len, {max_model_len} (got {chunk})")
    return cut
