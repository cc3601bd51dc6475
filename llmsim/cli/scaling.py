"""``llmsim scaling``: exponents of response time and throughput in parameters and length, beside the theory."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmsim.cli.catalogue import table
from llmsim.cli.console import common, console
from llmsim.errors import InputError

if TYPE_CHECKING:
    from llmsim.scaling import Law, Scaling


@click.command()
@click.option("--models", metavar="NAME,NAME,...", help="Of the catalogue, or paths. [Llama 3 from 1B to 405B]")
@click.option("--gpu", default="h200-sxm", show_default=True, metavar="NAME", help="Device of all points.")
@click.option(
    "-tp",
    "--tensor-parallel-size",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help="Devices that share every layer.",
)
@click.option("--lengths", metavar="N,N,...", help="Tokens of the prompt. [128,512,2048,8192,32768]")
@click.option(
    "--output-len", type=click.IntRange(min=1), default=128, show_default=True, metavar="N", help="Tokens of an answer."
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    metavar="N",
    help="Sequences at once, for the throughput.",
)
@click.option("--stack", default="vllm", show_default=True, metavar="NAME", help="Software whose kernels are priced.")
@click.option("--plot", "picture", type=click.Path(dir_okay=False), metavar="FILE", help="Draw both, .png or .svg.")
@common
def scaling(**options: Any) -> None:
    """Show how response time T and throughput Q grow with parameters P and length L, and which operators make them.

    Times are those of static batches, without a queue. Nothing is simulated.
    """  # fmt: skip
    from llmsim.hardware import load_device
    from llmsim.model import load_model
    from llmsim.scaling import FAMILY, LENGTHS, plot
    from llmsim.scaling import scaling as scaling_of

    names = _words(options["models"]) if options["models"] else list(FAMILY)
    lengths = _whole(options["lengths"]) if options["lengths"] else list(LENGTHS)
    found = scaling_of(
        [load_model(name) for name in names],
        load_device(options["gpu"]),
        lengths=lengths,
        tensor=options["tensor_parallel_size"],
        batch=options["batch"],
        output=options["output_len"],
        stack=options["stack"],
    )
    out = console()
    for name in found.too_large:
        out.warn(f"the weights of {name} do not fit: its times are what they would be if they did")
    out.result(json.dumps(found.to_dict(), indent=2) if out.json else text(found))
    if options["picture"]:
        _check_suffix(options["picture"])
        plot(found, options["picture"])
        out.note(f"wrote {options['picture']}")


def _words(said: str) -> list[str]:
    return [word for word in re.split(r"[,\s]+", said) if word]


def _whole(said: str) -> list[int]:
    try:
        return [int(word) for word in _words(said)]
    except ValueError:
        raise InputError(f"--lengths: whole numbers, separated by commas (got {said!r})") from None


def _check_suffix(path: str) -> None:
    if Path(path).suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"--plot: a file that ends in .png, .svg or .pdf (got {path!r})")


def text(found: "Scaling") -> str:
    """Return the points, the laws, and the operators beside their theory."""
    points = [
        {"model": name, "P": f"{count / 1e9:.2f} B", "L": length, "first token ms": round(found.first_s[i, j] * 1e3, 2),
         "step ms": round(found.step_s[i, j] * 1e3, 3), "T ms": round(found.response_s[i, j] * 1e3, 1),
         f"Q tok/s at batch {found.batch}": round(found.throughput[i, j], 1)}
        for i, (name, count) in enumerate(zip(found.models, found.parameters, strict=True))
        for j, length in enumerate(found.lengths)
    ]  # fmt: skip
    laws = [{"law": name, **_exponents(law)} for name, law in found.laws.items()]
    operators = [
        {"phase": one.phase, "operator": one.operator, **_exponents(one.law), "theory": one.formula,
         "P in theory": f"{one.of_parameters:.2f}", "L in theory": f"{one.of_length:.2f}"}
        for one in found.operators
    ]  # fmt: skip
    return "\n\n".join(
        [
            table(points),
            f"a x P^p x L^l through these points (answers of {found.output} tokens)\n" + table(laws),
            "operators, and the exponents that their operations or bytes have in theory\n" + table(operators),
        ]
    )


def _exponents(law: "Law") -> dict[str, str]:
    words = {"p": law.of_parameters, "l": law.of_length}
    ends = {"p at the end": law.end_of_parameters, "l at the end": law.end_of_length}
    told = {name: "-" if value is None else f"{value:.2f}" for name, value in {**words, **ends}.items()}
    return {"p": told["p"], "l": told["l"], "spread": f"{law.spread:.0%}", **told}
