"""Reports: whole, self-contained pages that say what the run says."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner
from synthetic import synthetic_run

import llmsim
from llmsim.cli.app import cli
from llmsim.errors import InputError
from llmsim.results import page
from llmsim.results.report import report
from llmsim.sweep_report import save_sweep_report

VOID = {"meta", "img"}
FETCHES = re.compile(r"""(?:src|href|action|data)\s*=\s*["'](?!data:)|url\(|@import|<script|<link|<iframe""", re.I)


class Reader(HTMLParser):
    """Checks that tags nest, and keeps the text and the pictures."""

    def __init__(self):
        super().__init__()
        self.open, self.words, self.pictures = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.pictures.append(dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(content):
    reader = Reader()
    reader.feed(content)
    assert reader.open == []
    assert not FETCHES.search(content)
    assert all(picture["alt"] and picture["src"].startswith("data:image/png;base64,") for picture in reader.pictures)
    return " ".join(" ".join(reader.words).split()), reader.pictures


def command(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="llmsim")


@pytest.fixture(scope="module")
def run():
    return llmsim.simulate(llmsim.load("chatbot").with_({"num_prompts": 150, "name": "<b>odd & name"}))


@pytest.fixture(scope="module")
def written(run):
    """The report of the run; pictures take their time."""
    return report(run)


@pytest.fixture(scope="module")
def table():
    scenario = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", num_prompts=60)
    return llmsim.sweep(
        scenario, {"engine.tensor_parallel_size": [1, 3], "request_rate": [4, 8, 16, 32]}, replications=2
    )


def test_the_report_of_a_run_is_one_page_with_all_of_it(run, written):
    words, pictures = read(written)
    assert len(pictures) == 5
    for title in ("Objectives", "Latency", "Pictures", "Slowest first tokens", "Where the time went", "Scenario"):
        assert title in words
    assert "<b>odd & name" in words, "names are shown, not obeyed"
    assert "150 of 150" in words
    assert all(note in words for note in run.notes())
    assert page.number(run.metrics["p99_ttft_ms"]) in words
    assert "preset: vllm@0.33" in words


def test_the_worst_requests_are_the_worst(run, written):
    words, _ = read(written)
    slowest = max(run.records, key=lambda record: record.first_token_s - record.arrival_s)
    after = words.split("Slowest first tokens")[1]
    assert f" replica {slowest.id} " in after


def test_the_same_run_gives_the_same_page(run, written):
    assert report(run) == written


def test_warnings_of_a_run_that_was_stopped_or_rejected_are_seen():
    words, _ = read(report(synthetic_run(requests=30, rejected=3, stopped="time limit", warnings=["Mind the gap."])))
    assert "stopped early (time limit)" in words
    assert "Mind the gap." in words


def test_a_run_without_requests_is_a_page_too():
    words, pictures = read(report(llmsim.Run(records=[])))
    assert "0 of 0" in words
    assert pictures == []


def test_the_report_of_a_sweep_shows_points_pictures_and_reasons(table, tmp_path):
    path = save_sweep_report(table, tmp_path / "report.html", slo={"p99_ttft_ms": 200}, scenario="model: x")
    words, pictures = read(path.read_text(encoding="utf-8"))
    assert len(pictures) == 2
    assert "8 of 16 runs: " in words
    assert "infeasible" in words
    assert "8 points of engine.tensor_parallel_size, request_rate, 16 runs, 8 of which came to an end" in words
    assert "model: x" in words


def test_a_sweep_without_a_load_has_no_curves(tmp_path):
    scenario = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", num_prompts=20, request_rate=8)
    table = llmsim.sweep(scenario, {"max_num_seqs": [8, 16]})
    _, pictures = read(save_sweep_report(table, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert len(pictures) == 1
    with pytest.raises(InputError, match="not the table of a sweep"):
        save_sweep_report(table.drop(columns=["replication"]), tmp_path / "r.html")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "n/a"), (float("nan"), "n/a"), (3, "3"), (12345, "12,345"), (0.123456, "0.1235"), (98765.4, "98,765")],
)
def test_numbers_are_rounded_for_people(value, text):
    assert page.number(value) == text


def test_a_mean_and_its_interval_end_at_the_same_place():
    assert page.with_half(1234.567, 260.4) == "1,235 ± 260"
    assert page.with_half(7.4461, 0.0731) == "7.446 ± 0.073"
    assert page.with_half(2.0, float("nan")) == "2"


# ---------------------------------------------------------------------- the command line


def test_a_folder_gives_the_page_that_the_run_gave(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = command("simulate", "rag", "--num-prompts", 30, "-o", "run", "--report", "--timeline-seconds", 2)
    assert made.exit_code == 0, made.output
    first = (tmp_path / "run" / "report.html").read_bytes()
    assert (tmp_path / "run" / "timeline.json.gz").is_file()
    again = command("report", "run", "-o", "again.html")
    assert again.exit_code == 0, again.output
    assert "warning" not in again.output
    words = [read(content.decode())[0] for content in (first, (tmp_path / "again.html").read_bytes())]
    # The resolved scenario says where its values came from.
    figures = [text.split("Objectives")[1].split("Scenario")[0] for text in words]
    assert figures[0] == figures[1]


def test_a_folder_of_another_version_is_warned_about(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command("simulate", "rag", "--num-prompts", 10, "-o", "run")
    summary = tmp_path / "run" / "summary.json"
    summary.write_text(summary.read_text().replace('"completed": 10', '"completed": 9'))
    assert "not the figures of run/summary.json" in command("report", "run").output


def test_a_folder_of_a_sweep_gives_its_report_and_plots(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sw").mkdir()
    table.to_csv(tmp_path / "sw" / "sweep.csv", index=False)
    assert command("report", "sw", "--slo", "p99_ttft_ms=200").output == "wrote sw/report.html\n"
    drawn = command("plot", "sw", "--slo", "p99_ttft_ms=200", "--format", "svg")
    assert drawn.output.splitlines() == ["wrote sw/plots/latency_throughput.svg", "wrote sw/plots/pareto.svg"]
    assert "tensor_parallel_size 1: keeps the SLO" in (tmp_path / "sw/plots/latency_throughput.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["report", "."], 3, "neither a run nor a sweep"),
        (["plot", "nothing"], 3, "no such file"),
        (["plot", "sw", "--kind", "life_lines"], 2, "not a picture of a sweep"),
        (["plot", "sw", "--slo", "fast"], 2, "not of the form KEY=MS"),
        (["plot", "rag", "--kind", "pareto"], 2, "not a picture of a run"),
        (["report", "rag", "--slo", "p99_ttft_ms=2"], 2, "--slo is for sweeps"),
        (["plot", "sw", "--kind", "latency_throughput", "--metric", "p98_ttft_ms"], 3, "has none of p98_ttft_ms"),
        (["report", "sw", "--slo", "ttft"], 2, "not of the form KEY=MS"),
    ],
)
def test_what_cannot_be_shown_is_said(table, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sw").mkdir()
    table.to_csv(tmp_path / "sw" / "sweep.csv", index=False)
    answer = command(*arguments)
    assert (answer.exit_code, message in answer.output) == (code, True), answer.output


def test_plot_draws_what_is_asked_of_a_scenario(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load = "workload: {num_prompts: 5, dataset: {name: random, input_len: 50, output_len: 5}}\n"
    (tmp_path / "s.yaml").write_text("model: gpt2\ncluster: {gpu: h100-sxm}\n" + load)
    answer = command("plot", "s.yaml", "--kind", "life_lines", "-o", "p")
    assert answer.exit_code == 0, answer.output
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["life_lines.png"]


# ---------------------------------------------------------------------- a browser


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_a_browser_shows_every_picture_and_fetches_nothing(run, table, tmp_path, kind):
    """Chromium lays the page out: every picture has its size, nothing is wider than the window, nothing is fetched."""
    browser = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
    )
    if not browser:
        pytest.skip("needs a Chromium: apt install chromium")
    path = tmp_path / "report.html"
    run.save_report(path) if kind == "run" else save_sweep_report(table, path)
    content = path.read_text(encoding="utf-8")
    # A script of the test's own asks the page about itself; the policy of the page has to make room for it.
    probe = (
        "<script>window.onload = () => { const bad = [...document.images].filter(i => !i.naturalWidth).length;"
        "document.title = JSON.stringify({images: document.images.length, bad,"
        "wide: document.documentElement.scrollWidth > innerWidth,"
        "fetched: performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length});"
        "}</script>"
    )
    opened = tmp_path / "probed.html"
    opened.write_text(content.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
                      .replace("</body>", probe + "</body>"), encoding="utf-8")  # fmt: skip
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,900", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [browser, *options, "--dump-dom", opened.as_uri()], capture_output=True, text=True, timeout=120
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.S).group(1)
    pictures = 5 if kind == "run" else 2
    assert title == f'{{"images":{pictures},"bad":0,"wide":false,"fetched":0}}'
    shot = tmp_path / "report.png"
    subprocess.run(
        [browser, *options, f"--screenshot={shot}", path.as_uri()], capture_output=True, check=True, timeout=120
    )
    assert shot.stat().st_size > 30_000
