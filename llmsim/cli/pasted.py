"""``--serve-cmd`` and ``--bench-cmd``: the commands of a real engine and its load, read by our own options."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import click

from llmsim.cli.console import console
from llmsim.cli.load_options import load_options
from llmsim.cli.options import EngineCommand, add, engine_options, option

PASTED = "Pasted commands"

_IMAGE = re.compile(r"([\w.:/-]+/)?vllm-openai([:@].*)?")
_ENDS = re.compile(r"(\d?|&)>|\||&$|&&|;|<")
# How the two commands begin, the older spellings included.
_SERVE = (("vllm", "serve"), ("-m", "vllm.entrypoints.openai.api_server"), ("-m", "vllm.entrypoints.cli.main", "serve"))
_BENCH = (("vllm", "bench", "serve"), ("-m", "vllm.entrypoints.cli.main", "bench", "serve"), ("benchmark_serving.py",))

# Flags that change nothing that is simulated: with a value, and without.
_SERVE_VALUES = (
    "host", "port", "api-key", "uds", "root-path", "served-model-name", "seed", "chat-template", "download-dir",
    "tokenizer", "tokenizer-mode", "load-format", "revision", "tokenizer-revision", "uvicorn-log-level",
    "tool-call-parser", "reasoning-parser", "allowed-origins", "ssl-keyfile", "ssl-certfile", "hf-token",
    "response-role", "max-log-len", "lora-modules", "generation-config",
)  # fmt: skip
_SERVE_SWITCHES = (
    "trust-remote-code", "disable-log-requests", "disable-log-stats", "enable-log-requests", "enable-auto-tool-choice",
    "disable-uvicorn-access-log", "enable-request-id-headers", "no-enable-log-requests",
)  # fmt: skip
_BENCH_VALUES = (
    "host", "port", "tokenizer", "tokenizer-mode", "served-model-name", "label", "metadata", "logprobs",
    "extra-body", "header", "temperature", "top-p", "top-k", "min-p", "frequency-penalty", "presence-penalty",
    "repetition-penalty", "num-warmups", "ready-check-timeout-sec", "request-id-prefix", "model",
)  # fmt: skip
_BENCH_SWITCHES = ("trust-remote-code", "disable-tqdm", "profile", "append-result", "use-beam-search", "insecure")


def pasted_options() -> list[Callable[[Any], Any]]:
    """Return the two options, for a command."""
    return [
        option("--serve-cmd", section=PASTED, metavar="'vllm serve ...'", help="The engine, as its real command says."),
        option("--bench-cmd", section=PASTED, metavar="'vllm bench serve ...'", help="The load, likewise."),
    ]


def with_pasted(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options in ``said`` over those of the commands that were pasted; what is said beside them wins.

    Raises:
        click.UsageError: a command is not of its kind, or has an option that is not known.
    """
    plain = dict(said)
    serve, bench = plain.pop("serve_cmd", None), plain.pop("bench_cmd", None)
    told: dict[str, Any] = {}
    if serve is not None:
        told |= read_serve(_words(serve, _SERVE, "--serve-cmd", "vllm serve MODEL ..."))
    if bench is not None:
        told |= read_bench(_words(bench, _BENCH, "--bench-cmd", "vllm bench serve ..."))
    return {**told, **plain}


def read_serve(words: Sequence[str]) -> dict[str, Any]:
    """Return the options that the words behind ``vllm serve`` give.

    Raises:
        click.UsageError: one is not known, or there is more than one model.
    """
    told = _read("serve", words, "--serve-cmd")
    models = told.pop("rest", ())
    if len(models) > 1:
        raise click.UsageError(f"--serve-cmd: one model at a time (got {', '.join(models)})")
    return {**({"model": models[0]} if models else {}), **told}


def read_bench(words: Sequence[str]) -> dict[str, Any]:
    """Return the options that the words behind ``vllm bench serve`` give.

    Raises:
        click.UsageError: one is not known.
    """
    told = _read("bench", words, "--bench-cmd")
    # ``--goodput ttft:500 tpot:50``: click takes the second one for an argument, and so it is passed on.
    rest = told.pop("rest", ())
    return {**told, **({"goodput": (*told.get("goodput", ()), *rest)} if rest else {})}


def _words(text: str, starts: Sequence[Sequence[str]], name: str, form: str) -> list[str]:
    """Return the words behind the command's own, without what stands in front, ends of lines, and redirections."""
    try:
        words = shlex.split(_plain(text), comments=True)
    except ValueError as error:
        raise click.UsageError(f"{name}: {error} (got {text!r})") from None
    for start in starts:
        for at in range(len(words)):
            head = words[at : at + len(start)]
            # A program may be named with its path.
            if head and [head[0].rpartition("/")[2], *head[1:]] == list(start):
                return [_dashed(word) for word in _to_the_end(words[at + len(start) :])]
    if starts is _SERVE:
        for at, word in enumerate(words):
            if _IMAGE.fullmatch(word):  # docker run ... vllm/vllm-openai:latest --model MODEL
                return [_dashed(word) for word in _to_the_end(words[at + 1 :])]
    raise click.UsageError(f"{name}: not of the form {form!r} (got {text!r})")


def _plain(text: str) -> str:
    """Return a command as a shell reads it, with the quotes, dashes and ends of lines that web pages give it mended."""
    text = re.sub(r"[\\`^][ \t]*\r?\n", " ", text)
    text = text.translate({ord(one): '"' for one in "\u201c\u201d"} | {ord(one): "'" for one in "\u2018\u2019"})
    return re.sub(r"(?<!\S)[\u2013\u2014](?=[a-z])", "--", text)


def _to_the_end(words: Sequence[str]) -> list[str]:
    """Return the words up to where a shell's command ends, or its output goes elsewhere."""
    kept: list[str] = []
    for word in words:
        if _ENDS.match(word):
            break
        kept.append(word.removesuffix(";"))
        if word.endswith(";"):
            break
    return kept


def _dashed(word: str) -> str:
    """Return a flag with dashes, as vLLM takes it with either; keys of JSON behind a dot stay."""
    if not word.startswith("--"):
        return word
    flag, given, value = word.partition("=")
    head, dot, tail = flag.partition(".")
    return head.replace("_", "-") + dot + tail + given + value


def _read(kind: str, words: Sequence[str], name: str) -> dict[str, Any]:
    """Return what the options in ``words`` say, and warn of those that change nothing."""
    command = _command(kind)
    try:
        context = command.make_context(name, list(words))
    except click.UsageError as error:
        raise click.UsageError(f"{name}: {error.format_message()}") from None
    given = {
        key: value
        for key, value in context.params.items()
        if context.get_parameter_source(key) is click.core.ParameterSource.COMMANDLINE and value not in (None, ())
    }
    ignored = [key for key in given if key.startswith("ignored_")]
    flags = [f"--{key.removeprefix('ignored_').replace('_', '-')}" for key in ignored]
    if flags:
        console().warn(f"{name}: {', '.join(flags)}: ignored, {'they change' if flags[1:] else 'it changes'} no times")
    return {key: value for key, value in given.items() if key not in ignored}


@cache
def _command(kind: str) -> click.Command:
    """Return the command whose parser reads the words: our options, and those that are known to change nothing."""
    values, switches = (_SERVE_VALUES, _SERVE_SWITCHES) if kind == "serve" else (_BENCH_VALUES, _BENCH_SWITCHES)
    options = engine_options() if kind == "serve" else load_options()
    if kind == "serve":
        options = [*options, option("--model", section=PASTED)]
    else:
        options += [
            option("--seed", section=PASTED),
            option("--goodput", section=PASTED, multiple=True),
            option("--percentile-metrics", section=PASTED),
            option("--metric-percentiles", section=PASTED),
        ]

    @click.command(cls=EngineCommand, add_help_option=False)
    @click.argument("rest", nargs=-1)
    @add(options)
    def plain(**_: Any) -> None:
        """Nothing: only its parser is used."""

    known = {spelling for parameter in plain.params for spelling in (*parameter.opts, *parameter.secondary_opts)}
    for names, is_flag in ((values, False), (switches, True)):
        for spelling in names:
            if f"--{spelling}" not in known:
                key = "ignored_" + spelling.replace("-", "_")
                plain.params.append(click.Option([key, f"--{spelling}"], is_flag=is_flag, default=None))
    return plain
