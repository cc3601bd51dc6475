"""The examples in the page on workloads run, and its tables name what there is."""

import re
from pathlib import Path

import pytest
import yaml

from llmsim.workload.build import build
from llmsim.workload.build_lengths import DATASETS
from llmsim.workload.convert import WRITERS
from llmsim.workload.presets import preset_names
from llmsim.workload.readers import FORMATS
from llmsim.workload.spec import WorkloadSpec

PAGE = (Path(__file__).parents[1] / "docs" / "workloads.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_examples_build(text):
    workload = build(WorkloadSpec(**yaml.safe_load(text)["workload"]), seed=0, max_model_len=131_072)

    assert next(iter(workload.start())).prompt_tokens > 0


def test_the_python_example_runs(capsys):
    (text,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(text, {})

    assert "requests              200" in capsys.readouterr().out


@pytest.mark.parametrize("name", [*FORMATS, *DATASETS, *WRITERS, *preset_names()])
def test_everything_that_has_a_name_is_on_the_page(name):
    assert f"`{name}`" in PAGE
