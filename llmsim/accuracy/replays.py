"""Recorded requests of a measured row: the file that holds its own arrivals and lengths, found beside the table.

A row that says which requests it served is replayed with them, rather than with generated ones.  Its file is, in this
order: the one in its column ``requests``, relative to the table; the one of ``--requests TEXT=FILE`` whose text stands
in its dataset, notes or source; the one in the folder ``replay/`` beside the table whose name gives the row's device,
model and engine, and whose requests are as many as the row's dataset says.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmsim.accuracy.names import device_named, model_named
from llmsim.accuracy.software import software_of
from llmsim.errors import CatalogError, InputError, ModelError
from llmsim.workload.readers.synonyms import ENGINE_TIME_NAMES, pick

FOLDER = "replay"
# Named as in ``rtx-pro-6000_llama-3.1-8b_vllm-0.19.requests.jsonl``; settings in a file that ends in .meta.json.
_NAME = re.compile(r"(?P<device>[^_]+)_(?P<model>[^_]+)_(?P<engine>[^_]+)\.requests\.(?:jsonl|csv)(?:\.gz)?")
_META = ".meta.json"
# Flags of an engine that a recorded run may tell, by their names in vLLM.
_FLAGS = (
    "max_num_seqs", "max_num_batched_tokens", "max_model_len", "gpu_memory_utilization", "block_size",
    "enable_prefix_caching", "enable_chunked_prefill", "kv_cache_dtype", "enforce_eager", "async_scheduling",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recording:
    """A file of recorded requests, and what its name says it was recorded on."""

    path: Path
    device: str
    model: str
    preset: str


class Recordings:
    """Files of recorded requests that rows of one table may have.

    Args:
        table: the table of measured results.
        named: files by a text that stands in the rows that served them, relative to the current folder.

    Raises:
        InputError: a file of ``named`` does not exist.
    """

    def __init__(self, table: Path, named: Mapping[str, str | Path] | None = None) -> None:
        self._home = table.resolve().parent
        self._named = {text: Path(file).resolve() for text, file in (named or {}).items()}
        for text, path in self._named.items():
            if not path.is_file():
                raise InputError(f"--requests {text}: no such file (got {str(path)!r})")
        self._beside = list(_beside(self._home / FOLDER))

    def find(self, said: Mapping[str, str], where: str) -> str:
        """Return the path of the requests that a row served; empty when none are known.

        Args:
            said: the row's columns.
            where: file and line, for errors.

        Raises:
            InputError: the row names a file that does not exist.
        """
        own = said.get("requests", "").strip()
        if own:
            path = self._home / own
            if not path.is_file():
                raise InputError(f"{where}: requests: no such file (got {own!r})\nhint: looked in {self._home}")
            return str(path)
        text = " ".join(said.get(name, "") for name in ("dataset", "notes", "source", "source_key"))
        for part, path in self._named.items():
            if part in text:
                return str(path)
        return next((str(one.path) for one in self._beside if _is_of(one, said)), "")


def _beside(folder: Path) -> Iterator[Recording]:
    """Yield the recordings of a folder whose names tell what they are of."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        software = software_of(match["engine"].replace("-", " ")) if match else None
        if match is None or software is None:
            continue
        try:
            yield Recording(path, device_named(match["device"]).name, model_named(match["model"]).name, software.preset)
        except (CatalogError, ModelError):
            continue


def _is_of(recording: Recording, said: Mapping[str, str]) -> bool:
    """Say whether a row served the requests of a recording: same device, model, engine, and number of requests."""
    count = requests_named(said.get("dataset", ""))
    software = software_of(said["engine"], said.get("notes", ""), said.get("source_key", ""))
    if count is None or software is None or software.preset != recording.preset:
        return False
    try:
        device = device_named(*filter(None, (said["device"], said.get("device_norm", ""))))
        model = model_named(*filter(None, (said["model"], said.get("model_norm", ""))))
    except (CatalogError, ModelError):
        return False
    return (device.name, model.name) == (recording.device, recording.model) and count == _count(recording.path)


def requests_named(dataset: str) -> int | None:
    """Return how many requests the text of a data set says there were: ``300 ShareGPT-derived requests``."""
    told = re.search(r"\b(\d+) (?:[\w-]+ )?requests", dataset)
    return int(told[1]) if told else None


def _count(path: Path) -> int:
    from llmsim.workload.readers.files import open_text

    with open_text(path) as file:
        lines = sum(1 for line in file if line.strip())
    return lines - (".csv" in path.suffixes)


def settings_of(path: str) -> dict[str, Any]:
    """Return the engine's flags that the file beside recorded requests tells (``engine_kwargs`` in NAME.meta.json).

    Raises:
        InputError: that file is no JSON object.
    """
    meta = Path(path.partition(".requests.")[0] + _META)
    if not meta.is_file():
        return {}
    try:
        told = json.loads(meta.read_text(encoding="utf-8"))
        flags = dict(told.get("engine_kwargs") or {})
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{meta}: cannot be read as settings of an engine ({error})") from None
    return {name: flags[name] for name in _FLAGS if flags.get(name) is not None}


def taken_at_engine(path: str) -> bool:
    """Say whether the engine took the stamps itself (``queued_ts``), behind tokenizer and front end."""
    from llmsim.workload.readers.files import open_text

    with open_text(Path(path)) as file:
        first = next((line for line in file if line.strip()), "")
    try:
        names = list(json.loads(first)) if first.lstrip().startswith("{") else next(csv.reader([first]), [])
    except ValueError:
        return False
    return pick(ENGINE_TIME_NAMES, names) is not None
