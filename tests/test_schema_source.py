"""YAML with places, and the traps of YAML 1.1."""

import pytest

from llmsim.errors import ScenarioError
from llmsim.schema.source import Source, dotted, merge, read_file, read_text, scalar, value_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e9", 1e9), ("1.0e9", 1e9), ("1e+9", 1e9), ("5e-6", 5e-6), (".5", 0.5), ("-3", -3), ("1_000", 1000),
        ("010", 10), ("12:30", "12:30"), ("no", "no"), ("off", "off"), ("true", True), ("FALSE", False),
        ("null", None), ("~", None), ("", None), ("2023-11-16", "2023-11-16"), ("inf", float("inf")),
        (".inf", float("inf")), ("-.inf", -float("inf")), ("0x10", "0x10"), ("1.2.3", "1.2.3"),
        ("h100-sxm", "h100-sxm"),
    ],
)  # fmt: skip
def test_scalars_are_read_by_yaml_1_2(text, value):
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_quoted_scalars_stay_texts():
    assert read_text("a: '1e9'\nb: \"no\"\n", "x.yaml").data == {"a": "1e9", "b": "no"}


def test_every_key_and_item_has_its_place():
    source = read_text("engine:\n  max_num_seqs: 8\nlist:\n  - 1\n  - {k: 2}\n", "x.yaml")

    assert source.marks[("engine",)] == "x.yaml:1:1"
    assert source.marks[("engine", "max_num_seqs")] == "x.yaml:2:3"
    assert source.marks[("list", 0)] == "x.yaml:4:5"
    assert source.where(("list", 1, "k")) == "x.yaml:5:6: list[1].k"


def test_a_key_that_is_not_there_is_placed_at_its_nearest_parent():
    source = read_text("engine:\n  max_num_seqs: 8\n", "x.yaml")

    assert source.where(("engine", "watermark")) == "x.yaml:1:1: engine.watermark"
    assert source.where(("model",)) == "x.yaml: model"


def test_an_option_of_the_command_line_says_enough_alone():
    assert Source({}, {("seed",): "--seed"}).where(("seed",)) == "--seed"
    assert Source({}, {("seed",): ""}).where(("seed",)) == "seed"
    assert Source({}).where(("a", 0, "b")) == "a[0].b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3:1: a: given twice (first at x.yaml:1:1)"),
        ("a: [1,\n", "x.yaml:2:1: not valid YAML"),
        ("a:\n\t- 1\n", "x.yaml:2:1: not valid YAML"),
        ("- 1\n", "a scenario is a mapping"),
        ("a: !!python/name:os.system x\n", "x.yaml:1:4: tags such as"),
        ("a: !mine x\n", "x.yaml:1:4: tags such as !mine"),
        ("a: &a [*a]\n", "an alias must not contain itself"),
        ("a: *b\n", "x.yaml:1:4: not valid YAML: found undefined alias"),
        ("[1]: 2\n", "x.yaml:1:1: a key must be a plain word"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
    ],
)
def test_what_is_not_a_scenario_is_refused_with_its_place(text, message):
    with pytest.raises(ScenarioError, match=message.replace("[", r"\[").replace("(", r"\(").replace(")", r"\)")):
        read_text(text, "x.yaml")


def test_all_structural_errors_come_at_once():
    with pytest.raises(ScenarioError) as raised:
        read_text("a: 1\na: 2\nb: !x 1\n", "x.yaml")

    assert str(raised.value).count("\n") == 1


def test_anchors_and_merge_keys_work():
    source = read_text("base: &b {x: 1, y: 2}\none: {<<: *b, y: 3}\n", "x.yaml")

    assert source.data["one"] == {"x": 1, "y": 3}


def test_an_empty_text_is_an_empty_mapping():
    assert read_text("# nothing\n", "x.yaml").data == {}


def test_json_and_toml_are_read_too(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1e3, "b": [true, null]}')
    (tmp_path / "a.toml").write_text("a = 1e3\n[b]\nc = 2\n")

    assert read_file(tmp_path / "a.json").data == {"a": 1000.0, "b": [True, None]}
    toml = read_file(tmp_path / "a.toml")
    assert toml.data == {"a": 1000.0, "b": {"c": 2}}
    assert toml.where(("b", "c")).endswith("a.toml: b.c")


def test_files_that_cannot_be_read_are_input_errors(tmp_path):
    (tmp_path / "bad.toml").write_text("a = \n")
    (tmp_path / "bin.yaml").write_bytes(b"\xff\xfe\x00a")

    cases = {"none.yaml": "no such file", "bad.toml": "not valid TOML", "bin.yaml": "cannot be read"}
    for name, message in cases.items():
        with pytest.raises(ScenarioError, match=message):
            read_file(tmp_path / name)


def test_a_byte_order_mark_and_crlf_do_no_harm(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: x")

    assert read_file(tmp_path / "a.yaml").data == {"a": 1, "b": "x"}


def test_mappings_merge_deeply_and_lists_are_replaced():
    base = read_text("a: {x: 1, y: {z: 2}}\nl: [1, 2]\n", "base.yaml")
    over = read_text("a: {y: {w: 3}}\nl: [9]\n", "over.yaml")

    merged = merge(base, over)

    assert merged.data == {"a": {"x": 1, "y": {"z": 2, "w": 3}}, "l": [9]}
    assert merged.where(("a", "x")) == "base.yaml:1:5: a.x"
    assert merged.where(("a", "y", "w")) == "over.yaml:1:9: a.y.w"
    assert merged.where(("l", 0)) == "over.yaml:2:5: l[0]"
    assert base.data == {"a": {"x": 1, "y": {"z": 2}}, "l": [1, 2]}


@pytest.mark.parametrize(
    ("text", "value"),
    [("8", 8), ("[1, 2]", [1, 2]), ("{k: random}", {"k": "random"}), ("'8'", "8"), ("[1", "[1"), ("a: b", "a: b")],
)
def test_values_on_the_command_line_are_yaml(text, value):
    assert value_of(text) == value


def test_dotted_names():
    assert dotted(("cluster", "links", 0, "kind")) == "cluster.links[0].kind"
    assert dotted(()) == ""
