"""Broken rows of traces: the error names the row and the column."""

import json

import pytest

from llmsim.errors import TraceError
from llmsim.workload.readers import Reading, detect

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens"


def lines(*objects):
    return "\n".join(json.dumps(item) for item in objects) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"{AZURE}\n2023-11-16 18:17:03,12,2\n2023-11-16 18:17:04,abc,4\n",
            "row 3: column ContextTokens: 'abc' is not a whole number",
        ),
        (f"{AZURE}\n2023-11-16 18:17:03,12,2.5\n", "row 2: column GeneratedTokens: '2.5' is not a whole number"),
        (f"{AZURE}\n2023-11-16 18:17:03,-12,2\n", "row 2: column ContextTokens: '-12' is negative"),
        (f"{AZURE}\n2023-11-16 18:17:03,1e300,2\n", "row 2: column ContextTokens: '1e300' is more than any number"),
        (f"{AZURE}\n2023-11-16 18:17:03,{10**30},2\n", "row 2: column ContextTokens: "),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,1,2\n1e300,1,2\n", "row 3: column arrived_at"),
        (f"{AZURE}\n2023-11-16 18:17:03,nan,2\n", "row 2: column ContextTokens: 'nan' is not a whole number"),
        (f"{AZURE}\n2023-11-16 18:17:03,,2\n", "row 2: column ContextTokens: '' is not a whole number"),
        (f"{AZURE}\n2023-11-16 18:17:03,12\n", "row 2: column GeneratedTokens: is missing (got 2 of 3 columns)"),
        (f"{AZURE}\nyesterday,12,2\n", "row 2: column TIMESTAMP: 'yesterday' is not a time"),
        (
            f"{AZURE}\n2023-11-16 18:17:03,1,2\n2023-11-16 18:17:x4,12,2\n",
            "row 3: column TIMESTAMP: '2023-11-16 18:17:x4' is not a time",
        ),
        (
            f"{AZURE}\n2023-11-16 18:17:03,1,2\n2023-11-16 18:17:5,12,2\n",
            "row 3: column TIMESTAMP: '2023-11-16 18:17:5' is not a time",
        ),
        (
            "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,1,2\ninf,1,2\n",
            "row 3: column arrived_at: 'inf' is not a time",
        ),
        (
            "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,1,2\n0,1",
            "row 3: column num_decode_tokens: is missing",
        ),
        (
            '{"timestamp": 1, "input_length": 5, "output_length": 1, "hash_ids": [1]}\n{"timestamp": 2\n',
            "row 2: column",
        ),
        (
            lines({"timestamp": 1, "input_length": 5, "output_length": None}),
            "row 1: column output_length: None is not a whole number",
        ),
        (
            lines({"timestamp": 1, "input_length": 5, "output_length": 1}, {"timestamp": 1, "input_length": 5}),
            "row 2: column output_length: is missing",
        ),
        (
            lines(
                {"timestamp": 1, "input_length": 5, "output_length": 1},
                {"timestamp": "x", "input_length": 5, "output_length": 1},
            ),
            "row 2: column timestamp: 'x' is not a time",
        ),
        (
            lines({"timestamp": 1, "input_length": 5, "output_length": 1, "hash_ids": [1.5]}),
            "row 1: column hash_ids: [1.5] is not a list of whole numbers",
        ),
        (lines({"timestamp": 1, "input_length": 5, "output_length": 1}) + "[1]\n", "row 2: is not a JSON object"),
        (lines({"prompt": "x"}, {"prompt": 3}), "row 2: column prompt: 3 is not a text"),
        ('[[1, 2], [3, "x"]]', "row 2: 'x' is not a whole number"),
        ('[[1, 2], {"a": 1}]', "row 2: has no conversations"),
        ("[[1, 2], [3, 4", "row 2: is not JSON"),
        ("[[1, 2], nonsense, [3, 4]]" + " " * 100, "row 2: is not JSON"),
    ],
)
def test_broken_rows_are_named_with_row_and_column(tmp_path, text, message):
    path = tmp_path / "data.bin"
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        list(detect(path).read(Reading(path)))

    assert str(caught.value).startswith("data.bin:row")
    assert message in str(caught.value)
