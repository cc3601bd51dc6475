"""``llmsim compare``: two runs side by side, or a run and a measurement, and gates for CI."""

import json
import math
from typing import Any

import click

from llmsim.cli.catalogue import table
from llmsim.cli.console import common, console

GATE_FAILED = 1


@click.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--metrics", metavar="NAMES", help="Compared, with commas between. [throughputs and latencies]")
@click.option("--fail-on", "gates", multiple=True, metavar="GATE",
              help="Exit code 1 if it holds: 'p99_ttft_ms>+5%' of the change from A to B, 'p99_ttft_ms>500' of B. "
              "Repeatable.")  # fmt: skip
@common
@click.pass_context
def compare(context: click.Context, /, before: str, after: str, metrics: str | None, gates: tuple[str, ...]) -> None:
    """Compare A and B: folders of runs, summary.json files, or JSON files of `vllm bench serve`.

    The change is that from A to B, in percent of A.
    """
    from llmsim.gates import differences, parse_gate, read_result, unlike

    one, other = read_result(before), read_result(after)
    parsed = [parse_gate(text) for text in gates]
    names = None if metrics is None else [name for name in metrics.split(",") if name]
    found = differences(one, other, names)
    gated = differences(one, other, [gate.metric for gate in parsed])
    failed = [gate.text for gate, difference in zip(parsed, gated, strict=True) if gate.fails(difference)]
    shown = {difference.metric: difference for difference in (*found, *gated)}
    out = console()
    for note in unlike(one, other):
        out.warn(note)
    if out.json:
        rows = [{"metric": row.metric, "a": row.before, "b": row.after, "difference": row.change,
                 "percent": _finite(row.percent)} for row in shown.values()]  # fmt: skip
        told = {"a": one.source, "b": other.source, "metrics": rows, "failed": failed, "pass": not failed}
        out.result(json.dumps(told, indent=2))
    else:
        out.text(f"A: {one.source} ({one.kind})\nB: {other.source} ({other.kind})\n")
        out.result(table([_row(row) for row in shown.values()]))
        for gate in parsed:
            out.result(f"{'FAIL' if gate.text in failed else 'pass'}  {gate.text}")
    if failed:
        context.exit(GATE_FAILED)


def _row(row: Any) -> dict[str, Any]:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return {"metric": row.metric, "A": number(row.before, ",.5g"), "B": number(row.after, ",.5g"),
            "difference": number(row.change, "+,.4g"), "%": number(row.percent, "+.2f")}  # fmt: skip


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
