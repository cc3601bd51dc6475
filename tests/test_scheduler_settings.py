"""The scheduler's section of a scenario: names, settings, classes as objects; checked before anything runs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import pytest

import llmsim
from llmsim.errors import ScenarioError
from llmsim.schedulers import SCHEDULERS
from llmsim.schedulers.continuous import ContinuousBatching
from llmsim.schema import load, resolve, resolved_yaml
from llmsim.schema.settings import signature_of

if TYPE_CHECKING:
    from decimal import Decimal

MADE: list[dict] = []


class Noted(ContinuousBatching):
    """Notes with what it was made.

    Args:
        options: the engine's options.
        slack: how far
            a guess may be off.
        mode: one of two.
    """

    def __init__(
        self, options, pool, *, leap=True, seed=0, slack: float = 0.5, mode: Literal["near", "far"] = "near",
        most: int | None = None, is_on: bool = False, label: str = "x", plain=3, parts: list[int] | None = None,
        odd: Decimal | None = None,
    ):  # fmt: skip
        super().__init__(options, pool, leap=leap)
        MADE.append(
            {"leap": leap, "seed": seed, "slack": slack, "mode": mode, "most": most, "is_on": is_on, "label": label,
             "plain": plain, "parts": parts}
        )  # fmt: skip


class Needs(ContinuousBatching):
    def __init__(self, options, pool, *, target_ms: float):
        super().__init__(options, pool)
        if target_ms <= 0:
            raise ScenarioError(f"scheduler.target_ms: must be above 0 (got {target_ms:g})")


class TakesAll(ContinuousBatching):
    def __init__(self, options, pool, **settings):
        super().__init__(options, pool)
        MADE.append(settings)


NOTED = f"{__name__}:Noted"


def base(**values):
    return llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", num_prompts=5, request_rate=50).with_(values)


def made(scenario, **options):
    MADE.clear()
    llmsim.simulate(scenario, **options)
    return MADE[-1]


def test_a_class_gets_its_settings_the_seed_and_leap():
    given = {"name": NOTED, "slack": 2, "mode": "far", "most": "8k", "is_on": "yes", "label": 7, "parts": [1, 2]}
    got = made(base(scheduler=given, seed=4), leap=False)
    assert got == {"leap": False, "seed": 4, "slack": 2.0, "mode": "far", "most": 8000, "is_on": True, "label": "7",
                   "plain": 3, "parts": [1, 2]}  # fmt: skip
    assert isinstance(got["slack"], float)


def test_settings_can_be_laid_over_a_name_and_a_name_takes_them_away():
    named = base(scheduler=NOTED).with_({"scheduler.slack": 2, "scheduler.plain": 5})
    assert made(named)["slack"] == 2.0
    assert made(named)["plain"] == 5
    assert resolve(named.with_(scheduler="continuous")).scheduler == "continuous"
    # In one call the name comes first, in whatever order they stand.
    assert made(base().with_({"scheduler.slack": 3, "scheduler": NOTED}))["slack"] == 3.0
    assert made(named.with_({"scheduler.most": None}))["most"] is None


def test_settings_are_swept():
    table = llmsim.sweep(base(), {"scheduler.slack": [1, 2], "scheduler": [NOTED, f"{__name__}:TakesAll"]})
    assert list(table["status"]) == ["ok"] * 4
    table = llmsim.sweep(base(), {"scheduler": ["continuous", "static", {"name": NOTED, "slack": 2}]})
    assert list(table["status"]) == ["ok"] * 3


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "slak: 1",
            "s.yaml:5:3: scheduler.slak: unknown setting (did you mean 'slack'?)\nhint: known: slack (0.5), mode ",
        ),
        ("leap: false", "s.yaml:5:3: scheduler.leap: unknown setting"),
        ("seed: 3", "s.yaml:5:3: scheduler.seed: unknown setting"),
        ("slack: much", "s.yaml:5:3: scheduler.slack: must be a number (got 'much')"),
        ("mode: middle", "s.yaml:5:3: scheduler.mode: must be near or far (got 'middle')"),
        ("most: 1.5", "s.yaml:5:3: scheduler.most: must be a whole number or null (got 1.5)"),
        ("is_on: perhaps", "s.yaml:5:3: scheduler.is_on: must be true or false (got 'perhaps')"),
        ("plain: x", "s.yaml:5:3: scheduler.plain: must be a whole number (got 'x')"),
        ("parts: 3", "s.yaml:5:3: scheduler.parts: must be a list or null (got 3)"),
    ],
)
def test_wrong_settings_are_told_with_their_place(tmp_path, setting, said):
    path = tmp_path / "s.yaml"
    path.write_text(f"model: llama-3.1-8b\ncluster: {{gpu: h100-sxm}}\nscheduler:\n  name: '{NOTED}'\n  {setting}\n")
    with pytest.raises(ScenarioError) as raised:
        resolve(load(path))
    assert str(raised.value).startswith(f"{tmp_path}/{said}")


def test_a_setting_without_a_default_must_be_given():
    needs = base(scheduler=f"{__name__}:Needs")
    with pytest.raises(ScenarioError, match="scheduler: setting target_ms is missing"):
        resolve(needs)
    assert resolve(needs.with_({"scheduler.target_ms": 50})).scheduler_settings == {"target_ms": 50.0}


def test_what_a_scheduler_refuses_is_told_with_its_place(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        f"model: llama-3.1-8b\ncluster: {{gpu: h100-sxm}}\nscheduler:\n  name: '{__name__}:Needs'\n  target_ms: -1\n"
    )
    with pytest.raises(ScenarioError, match=r"s\.yaml:5:3: scheduler\.target_ms: must be above 0 \(got -1\)"):
        llmsim.simulate(load(path))


def test_schedulers_without_settings_say_so():
    with pytest.raises(ScenarioError, match="unknown setting: this scheduler has none"):
        resolve(base(**{"scheduler.slack": 1}))


def test_a_class_that_takes_anything_gets_everything():
    assert made(base(scheduler={"name": f"{__name__}:TakesAll", "a": 1, "b": "two"})) == {"a": 1, "b": "two"}


def test_a_class_as_an_object_is_its_name():
    by_object, by_name = base(scheduler=Noted), base(scheduler=NOTED)
    assert by_object == by_name
    assert by_object.sha256 == by_name.sha256
    run = llmsim.simulate(base(), scheduler=Noted)
    assert run.setup.scenario_sha256 == by_name.sha256 != base().sha256
    assert llmsim.sweep(base(), {"scheduler": [Noted, "static"]})["status"].tolist() == ["ok", "ok"]


def test_a_class_that_no_name_finds_runs_as_an_object_alone():
    class Hidden(Noted):
        pass

    with pytest.raises(ScenarioError, match=r"Hidden is not found by that name\nhint: simulate\(scenario, scheduler="):
        base(scheduler=Hidden)
    MADE.clear()
    run = llmsim.simulate(base(), scheduler=partial(Hidden, slack=9))
    assert MADE[-1]["slack"] == 9
    assert run.setup.scenario_sha256 != base().sha256
    text = resolved_yaml(resolve(base(), scheduler=partial(Hidden, slack=9)))
    assert "<locals>.Hidden" in text
    assert "slack: 9" in text
    # Also over a scenario that is already resolved, and over another scheduler with settings.
    assert made(resolve(base(scheduler={"name": NOTED, "slack": 3})), scheduler=Hidden)["slack"] == 0.5


def test_only_what_can_be_called_makes_schedulers():
    with pytest.raises(ScenarioError, match="scheduler: not a class"):
        llmsim.simulate(base(), scheduler="static")


def test_the_resolved_file_tells_every_setting_and_runs_again():
    first = resolve(base(scheduler={"name": NOTED, "slack": 2}))
    text = resolved_yaml(first)
    lines = {line.split(":")[0].strip(): line.split("#")[-1].strip() for line in text.splitlines() if "#" in line}
    assert lines["slack"] == "user"
    assert lines["mode"] == f"default of {NOTED}"
    assert resolve(load(text)).scheduler_settings == first.scheduler_settings


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_has_readable_settings(name):
    signature = signature_of(SCHEDULERS[name])
    assert "leap" in signature.takes
    for setting in signature.settings.values():
        assert setting.help, f"{name}: {setting.name} is not in the docstring"
        assert setting.words != "any value"
        if setting.default is not None:
            assert setting.read(setting.default) == setting.default


def test_the_docstring_tells_what_a_setting_is():
    assert signature_of(Noted).settings["slack"].help == "how far a guess may be off."


def test_prefix_caching_is_warned_about_where_the_user_asks_a_scheduler_that_has_none():
    asked = base(scheduler="static", enable_prefix_caching=True)
    said = "engine.enable_prefix_caching: ignored, scheduler static computes every prompt token"
    assert said in resolve(asked).warnings
    assert resolve(base(scheduler="static")).warnings == ()
    assert resolve(base(enable_prefix_caching=True)).warnings == ()
