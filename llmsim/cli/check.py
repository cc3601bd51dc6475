"""``llmsim check`` and ``llmsim schema``: scenario files without a run."""

import json
from typing import TYPE_CHECKING

import click

from llmsim.cli.console import common, console

if TYPE_CHECKING:
    from llmsim.schema import Resolved


@click.command()
@click.argument("scenario", type=click.Path())
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Lay a value over the file; repeatable.")
@click.option("--resolved", is_flag=True, help="Print every value, with where it comes from.")
@common
def check(scenario: str, settings: tuple[str, ...], resolved: bool) -> None:
    """Check SCENARIO: all errors at once, with line and column; then what it would run."""
    from llmsim.schema import load, resolve, resolved_yaml
    from llmsim.schema.build import parse_setting
    from llmsim.simulation import Simulation

    values = dict(parse_setting(text) for text in settings)
    ready = resolve(load(scenario, overrides=values, labels={name: f"--set {name}" for name in values}))
    prepared = Simulation(ready)  # places the model and counts the blocks of its cache
    told = {**_facts(ready), "cache": f"{prepared.budget.usable:,} blocks ({prepared.budget.source})"}
    out = console()
    out.warnings(prepared.warnings)
    if resolved:
        out.result(resolved_yaml(ready))
    elif out.json:
        out.result(json.dumps({"scenario": scenario, "valid": True, **told}, indent=2))
    else:
        out.text(f"{scenario}: ok")
        width = max(map(len, told))
        for name, value in told.items():
            out.text(f"  {name:<{width}}  {value}")


def _facts(ready: "Resolved") -> dict[str, str]:
    """Return what a resolved scenario would run, in words."""
    options, plan = ready.options, ready.plan
    shape = plan.told
    return {
        "name": ready.name,
        "model": ready.model.name,
        "cluster": f"{ready.cluster.title} ({ready.cluster.devices} devices)",
        "deployment": f"{ready.replicas} x {shape}, router {ready.router}",
        "engine": f"{ready.preset}, {ready.scheduler} batching, max_num_seqs {options.max_num_seqs}, "
        f"max_num_batched_tokens {options.max_num_batched_tokens}, max_model_len {options.max_model_len}",
        "formats": f"weights {options.weight_format}, cache {options.cache_format}",
        "sha256": ready.scenario.sha256,
    }


@click.command()
@common
def schema() -> None:
    """Print the JSON schema of scenario files, for editors: llmsim schema > llmsim.schema.json."""
    from llmsim.schema import json_schema

    console().result(json.dumps(json_schema(), indent=2))
