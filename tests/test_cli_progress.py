"""Runs that end early, and the bar that moves meanwhile."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from llmsim.cli.app import cli

LONG = ("--num-prompts", "200000", "--request-rate", "15", "--set", "workload.dataset.name=vllm_random",
        "--random-range-ratio", "0.9")  # fmt: skip


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_time_limit_keeps_what_there_is_and_exits_with_5():
    result = CliRunner().invoke(cli, ["simulate", *LONG, "--time-limit", "0.3", "-o", "out"], prog_name="llmsim")

    assert result.exit_code == 5
    assert "stopped early: time limit" in result.stdout
    assert json.loads(Path("out/summary.json").read_text())["stopped"] == "time limit"


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
@pytest.mark.usefixtures("hears_ctrl_c")
def test_ctrl_c_keeps_what_there_is_and_exits_with_130():
    command = [sys.executable, "-m", "llmsim.cli", "simulate", *LONG, "-o", "out"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)

    assert process.returncode == 130, stderr
    assert "stopped early: interrupted" in stdout
    assert json.loads(Path("out/summary.json").read_text())["stopped"] == "interrupted"
    assert "Traceback" not in stderr


def test_nothing_moves_on_the_screen_when_piped():
    command = [sys.executable, "-m", "llmsim.cli", "simulate", *LONG, "--time-limit", "1.5", "--no-output"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)

    assert answer.returncode == 5
    assert "\x1b" not in answer.stdout + answer.stderr
    assert "\r" not in answer.stdout + answer.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("seconds", "shown"), [("2.5", True), ("0.3", False)])
def test_a_bar_moves_on_a_terminal_after_a_second(seconds, shown):
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "llmsim.cli", "simulate", *LONG, "--time-limit", seconds, "--no-output"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:
        pass  # the other end is closed
    process.wait(timeout=60)
    os.close(ours)

    assert process.returncode == 5
    assert (b"requests, " in seen) is shown
