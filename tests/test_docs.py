"""The documentation: pages link to what is there, the tutorial's and the recipes' commands run, the site builds."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
GUIDES = ("tutorial.md", "how-to.md")


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and MyST make it."""
    plain = re.sub(r"[`*]|\[(.*?)\]\(.*?\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return {anchor(line.lstrip("#")) for line in prose.splitlines() if line.startswith("#")}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, place = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        if not found.exists() or (place and found.suffix == ".md" and place not in anchors(found)):
            broken.append(target)
    assert not broken


def test_every_page_is_on_the_site():
    listed = re.findall(r"^[\w/-]+$", (DOCS / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    notebooks = {f"notebooks/{one.stem}" for one in (ROOT / "notebooks").glob("*.ipynb")}
    assert set(listed) >= {page.stem for page in PAGES} - {"index"} | notebooks


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_percentile_tests_work_in_a_repository_of_somebody_else(pytester, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    page = DOCS / "percentile-tests.md"
    pytester.mkdir("deploy").joinpath("chat.yaml").write_text(blocks(page, "yaml")[0])
    pytester.mkdir("tests").joinpath("test_latency.py").write_text(blocks(page, "python")[0])
    assert blocks(page, "bash") == ["pytest --llmsim-update\n"]
    pytester.runpytest_subprocess("--llmsim-update").assert_outcomes(passed=3)
    assert len(list(pytester.path.glob("tests/__llmsim__/test_latency/*.json"))) == 1
    pytester.runpytest_subprocess().assert_outcomes(passed=3)
    chat = pytester.path / "deploy" / "chat.yaml"
    chat.write_text(chat.read_text().replace("request_rate: 8", "request_rate: 16"))
    slower = pytester.runpytest_subprocess()
    assert slower.parseoutcomes()["failed"] >= 1
    slower.stdout.fnmatch_lines(["*not within the baseline*"])


@pytest.fixture
def own_model(tmp_path):
    """Write the tutorial's model where it tells a reader to save it."""
    (config,) = blocks(DOCS / "tutorial.md", "json")
    (tmp_path / "mymodel").mkdir()
    (tmp_path / "mymodel" / "config.json").write_text(json.dumps(json.loads(config)))


@pytest.mark.docs
@pytest.mark.parametrize("name", GUIDES)
@pytest.mark.usefixtures("own_model")
def test_commands_of_a_guide_run_one_after_the_other(name, tmp_path):
    for command in "".join(blocks(DOCS / name, "bash")).splitlines():
        words = shlex.split(command)
        call = f"{sys.executable} -m llmsim.cli {command[6:]}" if words[0] == "llmsim" else command
        done = subprocess.run(["bash", "-c", call], cwd=tmp_path, capture_output=True, text=True, check=False)
        # A gate that fails is what `compare` is for.
        allowed = (0, 1) if "--fail-on" in command else (0,)
        assert done.returncode in allowed, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.docs
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("furo", reason="the site needs the extra `docs`")
    shutil.copytree(ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns(".*", "runs", "_build", "__pycache__"))
    site = tmp_path / "site"
    words = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(tmp_path / "copy" / "docs"), str(site)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    options = (site / "options.html").read_text(encoding="utf-8")
    assert "--max-num-seqs" in options
    assert ".. option::" not in options
    assert (site / "notebooks" / "first_run.html").exists()
    assert "simulate" in (site / "api.html").read_text(encoding="utf-8")
