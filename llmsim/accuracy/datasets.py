"""Workloads that benchmarks name instead of describing: lengths, shared prefixes, rates and limits.

These are published definitions of the benchmarks, not results.  Each says where it is from; those known from memory
alone say so.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Dataset:
    """Lengths of a named workload.

    ``prompt`` and ``output`` are sections of a scenario's dataset; ``rates`` are requests a second of the stages of
    a load test, ``stage_s`` the seconds that each lasts; ``shared`` are (tokens, count) of the prefixes that
    requests have in common; ``beams`` the width of the beam search; ``arrivals`` how requests are spaced at a rate.
    """

    prompt: Mapping[str, Any]
    output: Mapping[str, Any]
    source: str
    rates: tuple[float, ...] = ()
    stage_s: float = 0.0
    shared: tuple[int, int] | None = None
    beams: int = 1
    arrivals: Literal["poisson", "constant"] = "poisson"


def _skewed(mean: float, sd: float, most: int, least: int = 1) -> Mapping[str, Any]:
    return {"distribution": "lognormal", "mean": mean, "sd": sd, "min": least, "max": most}


def _prefixed(question: int, output: int, rates: tuple[float, ...], stage_s: float = 600.0) -> Dataset:
    prompt = 100 + question
    return Dataset(
        {"distribution": "fixed", "value": prompt},
        {"distribution": "fixed", "value": output},
        "inference-perf's shared_prefix generator with 9 system prompts of 100 tokens: the lengths and rates that "
        "BLIS's load tests used, from memory, unverified; later turns' history is not modelled; requests come at the "
        "even pace of its load type `constant`",
        rates,
        stage_s,
        (100, 9),
        arrivals="constant",
    )


# Pattern in the text for a data set -> what it is; the first that matches.
_DATASETS: tuple[tuple[str, Dataset], ...] = (
    (r'shared_prefix "codegen"', _prefixed(466, 247, (5.0, 10.0))),
    (r'shared_prefix "general.*general-lite', _prefixed(447, 248, ())),  # its rates are not known
    (r'shared_prefix "general"', _prefixed(447, 248, (8.0, 20.0))),
    (r'shared_prefix "roleplay"', _prefixed(450, 251, (6.0,))),
    (r"govreport|longbench.*ruler|mlperf.*405b", Dataset(_skewed(9428, 6000, 20000), _skewed(685, 500, 2000),
     "MLPerf Inference 5.0, Llama 3.1 405B: LongBench, RULER and GovReport, prompts of 9,428 tokens on average, 20,000 "
     "at most, 684.68 output tokens a sample in the reference; spreads from memory")),
    # Before OpenOrca, which is one of its three parts.
    (r"mlperf mixtral", Dataset(_skewed(250, 200, 1024), _skewed(145, 120, 1024),
     "MLPerf Inference, Mixtral 8x7B: OpenOrca, GSM8K, MBXP; 144.84 output tokens a sample; prompts from memory")),
    (r"openorca", Dataset(_skewed(294, 240, 1024), _skewed(294, 190, 1024),
     "MLPerf Inference, Llama 2 70B: OpenOrca, 294.45 output tokens a sample in the reference; spreads from memory")),
    (r"cnn.?dailymail \(mlperf\)", Dataset(_skewed(869, 400, 1919), _skewed(69, 25, 128),
     "MLPerf Inference, GPT-J 6B: CNN-DailyMail, 128 tokens at most, four beams; means from memory", beams=4)),
    (r"cnn.?dailymail", Dataset(_skewed(778, 360, 2540), {"distribution": "fixed", "value": 128},
     "MLPerf Inference 5.1, Llama 3.1 8B: CNN-DailyMail, 128 output tokens; mean prompt from memory")),
    (r"mlperf deepseek", Dataset(_skewed(800, 600, 3136), _skewed(3886, 3500, 20000),
     "MLPerf Inference 5.1, DeepSeek-R1: 3,886 output tokens a sample, 20,000 at most; prompts from memory")),
    (r"wmt16 en-de newstest2014", Dataset(_skewed(28, 15, 128), _skewed(28, 15, 128),
     "MLPerf Inference 0.5, GNMT: newstest2014, 3,003 sentences of 22 words, about 28 tokens a side, ten beams in the "
     "reference; spreads from memory", beams=10)),
    (r"newstest2014|wmt translation", Dataset(_skewed(28, 15, 128), _skewed(28, 15, 128),
     "WMT newstest2014, English to German: 3,003 sentences of 22 words, about 28 tokens a side; spreads from memory")),
    (r"squad", Dataset(_skewed(178, 60, 384), {"distribution": "fixed", "value": 1},
     "SQuAD 1.1 with BERT's word pieces: 178 tokens on average, 384 at most; from memory")),
    (r"sharegpt-derived", Dataset(_skewed(857, 527, 4000, 262), _skewed(652, 98, 1024, 512),
     "ShareGPT conversations of at least 512 output tokens, as LLMServingSim's workloads cut them: moments and bounds "
     "of the 300 requests that it published")),
    (r"sharegpt", Dataset({"distribution": "table", "table": "chat-sharegpt-8k", "side": "prompt", "max": 4096},
                          {"distribution": "table", "table": "chat-sharegpt-8k", "side": "output", "max": 2048},
     "the ShareGPT table of the catalogue")),
)  # fmt: skip

# Limits at the 99th percentile of MLPerf Inference's server scenarios in ms: (model, scenario) -> metric: limit.
# Source: MLPerf inference rules (inference_policies/inference_rules.adoc, rounds 4.1 and 5.1) and the loadgen's
# configuration (mlperf.conf), as published by MLCommons; from memory.
_LIMITS: tuple[tuple[str, str, dict[str, float]], ...] = (
    (r"llama-?2-70b", "interactive", {"ttft": 450.0, "tpot": 40.0}),
    (r"llama-?2-70b", "server", {"ttft": 2000.0, "tpot": 200.0}),
    (r"llama-?3\.1-8b", "interactive", {"ttft": 500.0, "tpot": 30.0}),
    (r"llama-?3\.1-8b", "server", {"ttft": 2000.0, "tpot": 100.0}),
    (r"llama-?3\.1-405b", "interactive", {"ttft": 4500.0, "tpot": 80.0}),
    (r"llama-?3\.1-405b", "server", {"ttft": 6000.0, "tpot": 175.0}),
    (r"mixtral", "server", {"ttft": 2000.0, "tpot": 200.0}),
    (r"deepseek-?r1", "server", {"ttft": 2000.0, "tpot": 80.0}),
    (r"gpt-?j", "server", {"e2e": 20000.0}),
    (r"bert", "server", {"e2e": 130.0}),
    (r"gnmt", "server", {"e2e": 250.0}),
)


def dataset_named(text: str) -> Dataset | None:
    """Return the workload that a text names, or None."""
    return next((data for pattern, data in _DATASETS if re.search(pattern, text.lower())), None)


def limits_of(model: str, notes: str) -> dict[str, float] | None:
    """Return the limits in ms (at the 99th percentile) that a server run of a benchmark had to meet, or None.

    ``notes`` name the scenario: "server" or "interactive".
    """
    said = notes.lower()
    if "mlperf" not in said:
        return None
    scenario = "interactive" if "interactive" in said else "server"
    for pattern, one, limits in _LIMITS:
        if one == scenario and re.search(pattern, model.lower()):
            return dict(limits)
    return None
