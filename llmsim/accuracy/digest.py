"""Digests of the code and the data that make predictions, so that outcomes of older ones are told apart.

The code's digest covers every file that has a say in what a set-up's outcome is: not the command line, not how rows
become set-ups or predictions become scores, for these are done anew by every validation.  What belongs to one set-up
alone, its model and its device, has a digest of its own: a new device in the catalogue makes no outcome older.
"""

import hashlib
from functools import cache
from pathlib import Path

from llmsim import catalog
from llmsim.errors import LlmsimError

# Rooms that ask for runs, or show them, and change nothing of them.
_SILENT = frozenset({"cli", "calibration", "planning", "testing", "accuracy"})
# The rooms of `llmsim.accuracy` that make an outcome of a set-up.
_MAKERS = ("forward", "machines", "outcome", "parts", "predict", "submissions")


def files_that_count() -> dict[str, Path]:
    """Return every file whose content changes the outcomes of all set-ups, by its name inside the package."""
    package = Path(catalog.__file__).parent
    found = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    makers = {f"accuracy/{name}.py" for name in _MAKERS}
    files = {name: path for name, path in found.items() if name.split("/")[0] not in _SILENT or name in makers}
    for kind in ("hardware/performance", "workloads/tables"):
        files |= {f"{kind}/{path.name}": path for path in catalog.folder(kind).iterdir() if path.is_file()}
    # The stacks' numbers are a part of each outcome's name.
    del files["hardware/performance/stacks.yaml"]
    return dict(sorted(files.items()))


@cache
def code_digest() -> str:
    """Return a digest of the package's code, of the tables of lengths and of the kernels' constants."""
    digest = hashlib.sha256()
    for name, path in files_that_count().items():
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@cache
def data_digest(model: str, device: str) -> str:
    """Return a digest of a model's shape, of a device, and of the node that it usually comes in."""
    from llmsim.hardware import load_device, load_node
    from llmsim.model import load_model

    said = []
    for load, name in ((load_model, model), (load_device, device)):
        try:
            said.append(repr(load(name)))
        except LlmsimError as error:
            said.append(str(error))
    try:
        said.append(repr(load_node(load_device(device).node or "")))
    except LlmsimError as error:
        said.append(str(error))
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]
