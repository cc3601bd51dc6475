"""Every trace format and every trap, on small files made here."""

import gzip
import json

import pytest

from llmsim.errors import TraceError
from llmsim.workload.readers import FORMATS, Reading, ReadOptions, detect, format_named

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
BURST_2 = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type"


def lines(*objects):
    return "\n".join(json.dumps(item) for item in objects) + "\n"


CHAT = [{"from": "human", "value": "a" * 400}, {"from": "gpt", "value": "b" * 80}]
SERVEGEN = "0,1.5,1.0,Gamma,1.0,0.6\n600,0,0,,0,0\n1200,2,3.0,Weibull,0.5,0.2\n"
EXAMPLES = {
    "azure_2023": f"{AZURE}\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n",
    "azure_2024": f"{AZURE}\n2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:01+00:00,2399,6\n",
    "azure_lmm_2025": "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2024-10-15T12:00:00.269Z,1,770,491\n",
    "mooncake": lines(
        {"timestamp": 27482, "input_length": 1000, "output_length": 52, "hash_ids": [46, 47]},
        {"timestamp": 30535, "input_length": 600, "output_length": 26, "hash_ids": [46, 48]},
    ),
    "timed_trace": lines({"timestamp": 1.5, "input_length": 40, "output_length": 5, "hash_ids": [1, 2, 3]}),
    "bailian": lines(
        {
            "chat_id": 7,
            "parent_chat_id": -1,
            "timestamp": 0.5,
            "input_length": 20,
            "output_length": 5,
            "type": "text",
            "turn": 1,
            "hash_ids": [1, 2],
        },
        {
            "chat_id": 9,
            "parent_chat_id": 7,
            "timestamp": 9.0,
            "input_length": 40,
            "output_length": 6,
            "type": "text",
            "turn": 2,
            "hash_ids": [1, 3, 4],
        },
        {
            "chat_id": 11,
            "parent_chat_id": 9,
            "timestamp": 12.0,
            "input_length": 50,
            "output_length": 7,
            "type": "text",
            "turn": 3,
            "hash_ids": [1, 3, 4, 5],
        },
    ),
    "burstgpt_v1": f"{BURST}\n5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,0,1087,API log\n",
    "burstgpt_v2": f"{BURST_2}\n5,abc,1.5,ChatGPT,472,18,490,Conversation log\n9,,0.5,GPT-4,10,20,30,API log\n",
    "sharegpt": json.dumps([{"id": "x", "conversations": CHAT}, {"id": "y", "conversations": CHAT[:1]}]),
    "vllm_custom": lines({"prompt": "x" * 40, "output_tokens": 10}),
    "vidur": "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n4.314579,396,109\n",
    "vidur_lengths": "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n3772,54,3826,69.8\n",
    "vidur_dated": "Date,Time,PromptTokenCount,CompletionTokenCount\n2023-08-21,00:01:02.5,10,20\n",
    "lmcache_agent": lines({"timestamp": 1760428258635837, "input": "abcd" * 10, "output": "", "session_id": "s"}),
    "servegen": SERVEGEN,
    "csv": "arrival_s,prompt_tokens,output_tokens\n0.5,10,20\n",
    "csv_lengths": "prompt_tokens,output_tokens\n10,20\n",
    "jsonl": lines({"request_id": "a", "input_toks": 10, "output_toks": 20, "arrival_time": 1777142838.338653}),
    "jsonl_lengths": lines({"isl": 10, "osl": 20}),
}


@pytest.fixture
def made(tmp_path):
    """Write a text (or bytes) to a file whose name says nothing, and return its path."""

    def make(content, name="data.bin"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def read(path, name="auto", **options):
    reading = Reading(path, ReadOptions(**options))
    return list(format_named(name, path, options.get("columns")).read(reading)), reading


def triples(path, **options):
    return [(row.time_ns, row.prompt_tokens, row.output_tokens) for row in read(path, **options)[0]]


OWN_NAMES = {"time": "when", "prompt": "tokens in", "output": "tokens out"}


@pytest.mark.parametrize(
    "content",
    [
        "when,tokens in,prompt,tokens out\n1.5,10,-,20\n",
        lines({"when": 1.5, "tokens in": 10, "prompt": "-", "tokens out": 20}),
    ],
    ids=["csv", "jsonl"],
)
def test_columns_may_have_names_of_their_own(made, content):
    path = made(content)
    assert triples(path, columns=OWN_NAMES) == [(1_500_000_000, 10, 20)]
    untimed = {what: name for what, name in OWN_NAMES.items() if what != "time"}
    assert triples(path, columns=untimed) == [(None, 10, 20)]
    with pytest.raises(TraceError, match=r"no column 'then', which columns\.time names"):
        read(path, columns=OWN_NAMES | {"time": "then"})
    with pytest.raises(TraceError, match="columns can be named for csv and jsonl only"):
        read(path, "mooncake", columns=OWN_NAMES)


def test_every_format_has_an_example():
    assert sorted(EXAMPLES) == sorted(FORMATS)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_formats_are_recognised_by_content(made, name):
    assert detect(made(EXAMPLES[name])).name == name
    assert detect(made(gzip.compress(EXAMPLES[name].encode()))).name == name


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - {"servegen"}))
def test_line_ends_and_compression_change_nothing(made, name):
    text = EXAMPLES[name]
    expected = triples(made(text))

    assert expected
    assert triples(made(text.replace("\n", "\r\n"))) == expected
    assert triples(made(text.rstrip("\n"))) == expected
    assert triples(made(text.replace("\n", "\r\n").rstrip("\r\n"))) == expected
    assert triples(made(b"\xef\xbb\xbf" + text.encode())) == expected
    assert triples(made(gzip.compress(text.encode()))) == expected


def test_seven_digits_and_missing_fractions_are_exact(made):
    path = made(f"{AZURE}\n2023-11-16 18:17:03.9799600,1,2\n2023-11-16 18:17:04,3,4\n2023-11-16 18:18:04.1234567,5,6\n")
    first, second, third = (time for time, _, _ in triples(path))

    assert second - first == 20_040_000
    assert third - second == 60_123_456_700


def test_zones_are_taken_into_account(made):
    times = [
        "2024-05-10 12:00:00+00:00",
        "2024-05-10 14:00:00.5+02:00",
        "2024-05-10T08:30:01Z",
        "2024-05-10 05:00:01.25-0330",
        "2024-05-10 12:00",
    ]
    found = [time for time, _, _ in triples(made(AZURE + "\n" + "".join(f"{time},1,1\n" for time in times)))]

    assert [(time - found[0]) / 1e9 for time in found] == [0.0, 0.5, -12599.0, -12598.75, 0.0]


def test_mooncake_has_milliseconds_and_blocks_of_512(made):
    rows, _ = read(made(EXAMPLES["mooncake"]))

    assert rows[0].time_ns == 27_482_000_000
    assert rows[0].prefix.hash_ids == (46, 47)
    assert rows[0].prefix.block_tokens == 512


def test_timed_traces_have_seconds_and_blocks_of_16(made):
    (row,), _ = read(made(EXAMPLES["timed_trace"]))

    assert row.time_ns == 1_500_000_000
    assert row.prefix.block_tokens == 16


def test_unit_and_block_size_can_be_given(made):
    rows, _ = read(made(EXAMPLES["mooncake"]), time_unit="us", block_tokens=64)

    assert rows[0].time_ns == 27_482_000
    assert rows[0].prefix.block_tokens == 64


def test_chats_are_sessions_named_by_their_first_turn(made):
    rows, _ = read(made(EXAMPLES["bailian"]))

    assert [(row.id, row.parent, row.session_id) for row in rows] == [
        ("7", None, "7"),
        ("9", "7", "7"),
        ("11", "9", "7"),
    ]
    assert rows[0].prefix.block_tokens == 16
    assert rows[0].time_ns == 500_000_000


def test_burstgpt_is_read_by_the_names_of_its_columns(made):
    (first, second), _ = read(made(EXAMPLES["burstgpt_v1"]))
    assert (first.time_ns, first.prompt_tokens, first.output_tokens, first.tenant) == (5 * 10**9, 472, 18, "ChatGPT")
    assert second.output_tokens == 0
    assert FORMATS["burstgpt_v1"].zero_output == "drop"

    (first, second), _ = read(made(EXAMPLES["burstgpt_v2"]))
    assert (first.prompt_tokens, first.output_tokens, first.session_id) == (472, 18, "abc")
    assert second.session_id is None


def test_sharegpt_takes_the_first_exchange_at_four_characters_a_token(made):
    rows, reading = read(made(EXAMPLES["sharegpt"]))

    assert [(row.prompt_tokens, row.output_tokens) for row in rows] == [(100, 20)]
    assert "4 characters a token" in reading.notes[0]


def test_sharegpt_with_all_turns_has_the_history_in_the_prompt(made):
    path = made(json.dumps([{"id": "x", "conversations": CHAT + CHAT}]))
    rows, _ = read(path, turns="all")

    assert [(row.prompt_tokens, row.output_tokens, row.session_id) for row in rows] == [
        (100, 20, "x"),
        (220, 20, "x"),
    ]


def test_sharegpt_pruned_as_vllm_does(made):
    pairs = [[3, 10], [10, 3], [1025, 10], [1024, 1024], [1024, 1025], [4, 4]]
    path = made(json.dumps(pairs))

    assert len(read(path)[0]) == 6
    assert [(r.prompt_tokens, r.output_tokens) for r in read(path, prune=True)[0]] == [(1024, 1024), (4, 4)]


@pytest.mark.parametrize("item", [[12, 34], {"prompt_len": 12, "output_len": 34}, {"input_tokens": 12, "osl": "34"}])
def test_sharegpt_lengths_counted_beforehand(made, item):
    rows, reading = read(made(json.dumps([item, item])))

    assert [(row.prompt_tokens, row.output_tokens) for row in rows] == [(12, 34)] * 2
    assert reading.notes == []


def test_a_json_list_is_read_in_pieces(made):
    long = {"id": "x", "conversations": [{"from": "human", "value": "é" * 700_000}, {"from": "gpt", "value": "b" * 80}]}
    path = made(json.dumps([[1, 2], long, [3, 4], long], indent=1))
    rows, _ = read(path)

    assert [row.prompt_tokens for row in rows] == [1, 175_000, 3, 175_000]


def test_vllm_custom_without_output_uses_its_default(made):
    path = made(lines({"prompt": "x" * 40}))
    rows, reading = read(path)
    assert (rows[0].prompt_tokens, rows[0].output_tokens) == (10, 256)
    assert any("256" in note for note in reading.notes)

    assert read(path, output_len=9)[0][0].output_tokens == 9


def test_vllm_custom_with_tokens_is_not_an_estimate(made):
    rows, reading = read(made(lines({"prompt": [5, 6, 7], "output_tokens": 4})))
    assert rows[0].prompt_tokens == 3
    assert reading.notes == []

    rows, reading = read(made(lines({"prompt": "hello", "prompt_len": 77, "output_tokens": 4})))
    assert rows[0].prompt_tokens == 77
    assert reading.notes == []


def test_agent_sessions_may_have_no_output(made):
    (row,), _ = read(made(EXAMPLES["lmcache_agent"]))

    assert (row.time_ns, row.prompt_tokens, row.output_tokens) == (1760428258635837000, 10, 0)
    assert row.session_id == "s"


@pytest.mark.parametrize(
    ("header", "row", "time_ns"),
    [
        ("timestamp,input_tokens,output_tokens", "1.5,10,20", 1_500_000_000),
        ("Arrival Time,Prompt Length,Output Length", "1.5,10,20", 1_500_000_000),
        ("timestamp_ms,ISL,OSL", "1500,10,20", 1_500_000_000),
        ("output_len,input_len,arrived_at", "20,10,1.5", 1_500_000_000),
        ("timestamp,input_tokens,output_tokens", "2023-11-16T00:00:00Z,10,20", 1_700_092_800_000_000_000),
        ("timestamp,input_tokens,output_tokens", "1700092800000,10,20", 1_700_092_800_000_000_000),
        ("timestamp,input_tokens,output_tokens", "1700092800123456,10,20", 1_700_092_800_123_456_000),
        ("timestamp,input_tokens,output_tokens", "1.5,10.0, 20 ", 1_500_000_000),
        ("prompt,timestamp,prompt_tokens,output_tokens", '"a, ""b""\nc",1.5,10,20', 1_500_000_000),
    ],
)
def test_columns_go_by_many_names(made, header, row, time_ns):
    assert triples(made(f"{header}\n{row}\n")) == [(time_ns, 10, 20)]


def test_the_unit_of_large_stamps_is_said(made):
    _, reading = read(made("timestamp,input_tokens,output_tokens\n1700092800000,10,20\n"))

    assert "ms since 1970" in reading.notes[0]


def test_vidur_dates_count_from_midnight(made):
    header = "Date,Time,PromptTokenCount,CompletionTokenCount"
    path = made(f"{header}\n2023-08-21,00:01:02.5,10,20\n2023-08-22,3.5,1,2\n")
    first, second = (time for time, _, _ in triples(path))

    assert (second - first) / 1e9 == 86_400.0 - 62.5 + 3.5


def test_blank_rows_are_skipped_and_counted(made):
    rows, reading = read(made(f"{AZURE}\n\n2023-11-16 18:17:03,1,2\n\n , ,\n2023-11-16 18:17:04,3,4\n\n"))

    assert len(rows) == 2
    assert rows[1].number == 6
    assert reading.blank_rows == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"  \n \n", "is empty"),
        (b"a,b,c\n1,2,3\n", "no known format: no columns for prompt and output tokens (got a, b, c)"),
        (b"\xff\xfe\x00\x01abc", "is not UTF-8 text"),
        (gzip.compress(EXAMPLES["vidur"].encode(), mtime=0)[:-12], "broken or ends early"),
        (b'{"x": 1}\n', "no known format"),
    ],
)
def test_what_is_no_trace_is_said(made, content, message):
    with pytest.raises(TraceError) as caught:
        detect(made(content))

    assert message in str(caught.value)


def test_a_missing_file_and_an_unknown_format_are_said(tmp_path, made):
    with pytest.raises(TraceError, match="no such file"):
        detect(tmp_path / "none.csv")
    with pytest.raises(TraceError, match=r"unknown name 'mooncke'\nhint: closest names: mooncake"):
        format_named("mooncke", made(EXAMPLES["mooncake"]))


def test_a_long_first_line_does_not_hide_the_format(made):
    assert detect(made(lines({"prompt": "x" * 200_000, "output_tokens": 5}))).name == "vllm_custom"


def test_readers_stream(made):
    # The second half of the file is broken; what comes before it is read without looking there.
    path = made(EXAMPLES["vidur"] + "x,y,z\n" * 3)
    rows = detect(path).read(Reading(path))

    assert next(rows).prompt_tokens == 374
    assert next(rows).prompt_tokens == 396
    with pytest.raises(TraceError, match="row 4"):
        next(rows)
