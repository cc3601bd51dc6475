"""Long inputs cut into joined sub-requests: how they are cut, who waits for whom, and what the whole takes."""

import pytest

from llmsim.errors import ScenarioError
from llmsim.schema import load
from llmsim.simulation import simulate
from llmsim.workload.split import Cut


def scenario(split, *, prompt=10_000, output=50, count=20, rate=2.0, model="llama-3.1-8b", **workload):
    return load({
        "model": model,
        "cluster": {"gpu": "h100-sxm"},
        "workload": {
            "dataset": {"name": "fixed", "input": prompt, "output": output},
            "arrival": {"kind": "poisson", "request_rate": rate},
            "num_prompts": count,
            **({"split_long": split} if split else {}),
            **workload,
        },
    })  # fmt: skip


@pytest.mark.parametrize("prompt", [1, 99, 100, 101, 180, 181, 1000, 12345])
@pytest.mark.parametrize("overlap", [0, 20, 99])
def test_pieces_cover_the_input_and_share_what_they_should(prompt, overlap):
    pieces = Cut(100, overlap).pieces(prompt)
    # Piece i begins at i x (chunk - overlap); the last one ends at the end.
    starts = [index * (100 - overlap) for index in range(len(pieces))]
    ends = [start + length for start, length in zip(starts, pieces, strict=True)]
    assert ends[-1] == prompt
    assert all(0 < length <= 100 for length in pieces)
    assert all(end - start == overlap for end, start in zip(ends[:-1], starts[1:], strict=True))
    # No piece too many: without the last one, something would be left.
    assert len(pieces) == 1 or ends[-2] < prompt


def test_the_whole_ends_with_its_last_piece():
    run = simulate(scenario({"chunk": 4000, "overlap": 500}))
    assert len(run.joined) == 20
    assert len(run.records) == 20 * 3  # 4000, 4000 and 3000 tokens
    for whole in run.joined:
        pieces = [record for record in run.records if record.id.startswith(f"{whole.id}/piece")]
        assert sum(piece.prompt_tokens for piece in pieces) == 10_000 + 2 * 500
        assert {piece.arrival_s for piece in pieces} == {whole.arrival_s}
        assert whole.finished_s == max(piece.finished_s for piece in pieces)
        assert whole.first_token_s == max(piece.first_token_s for piece in pieces)
        assert (whole.prompt_tokens, whole.output_tokens) == (10_000, 150)


def test_a_merge_waits_for_all_pieces_and_reads_their_answers():
    run = simulate(scenario({"chunk": 4000, "merge": True, "piece_output": 30, "merge_prompt": 7}))
    for whole in run.joined:
        mine = {record.id: record for record in run.records if record.session_id == whole.id}
        merge = mine.pop(f"{whole.id}/merge")
        assert merge.arrival_s == max(piece.finished_s for piece in mine.values())
        assert merge.prompt_tokens == 3 * 30 + 7
        assert (whole.finished_s, whole.output_tokens) == (merge.finished_s, 50)
        assert whole.first_token_s == merge.first_token_s


def test_short_inputs_are_left_alone_and_joined_with_themselves():
    run = simulate(scenario({"chunk": 20_000}))
    assert run.joined == run.records or sorted(one.id for one in run.joined) == sorted(one.id for one in run.records)
    plain = simulate(scenario(None))
    assert plain.joined == []
    assert [one.finished_s for one in run.records] == [one.finished_s for one in plain.records]


def test_inputs_beyond_the_context_window_are_served_in_pieces():
    too_long = scenario(None, model="bert-base", prompt=3000)
    assert {record.status for record in simulate(too_long).records} == {"rejected"}
    cut = simulate(scenario({"chunk": 512, "overlap": 64}, model="bert-base", prompt=3000))
    assert {whole.status for whole in cut.joined} == {"finished"}
    assert len(cut.records) == 20 * (1 + -(-(3000 - 512) // 448))


def test_a_whole_is_rejected_with_its_first_rejected_piece():
    # Pieces of the whole window leave no room for an answer.
    run = simulate(scenario({"chunk": 131_072}, prompt=140_000, count=3))
    assert {whole.status for whole in run.joined} == {"rejected"}
    assert all(whole.finished_s is None and "max_model_len" in whole.reason for whole in run.joined)


def test_a_closed_loop_goes_on_when_the_whole_has_ended():
    run = simulate(scenario({"chunk": 4000, "merge": True}, arrival=None, closed_loop={"concurrency": 2}, count=8))
    ends = sorted(whole.finished_s for whole in run.joined)
    starts = sorted(whole.arrival_s for whole in run.joined)
    assert len(run.joined) == 8
    # Two users: the third request begins when the first whole has ended, and so on.
    assert starts[2:] == pytest.approx(ends[:6])


def test_the_result_says_what_became_of_the_requests_as_asked():
    run = simulate(scenario({"chunk": 4000}))
    assert any("20 requests as asked (60 with their pieces)" in line for line in run.closing_lines())
    assert '"joined"' in run.to_json()
    assert '"joined"' not in simulate(scenario(None)).to_json()


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"chunk": 0}, "split_long.chunk"),
        ({"chunk": 100, "overlap": 100}, r"split_long\.overlap: must be less than chunk, 100 \(got 100\)"),
        ({"chunk": 10**7}, "must be at most max_model_len"),
        ({"chunk": 10, "glue": 1}, "split_long.glue"),
        ({"overlap": 1}, "split_long.chunk"),
    ],
)
def test_what_is_wrong_is_named(split, message):
    with pytest.raises(ScenarioError, match=message):
        simulate(scenario(split))
