"""Where the catalogue's files lie: inside an installed package, or beside it in a checkout."""

import difflib
from pathlib import Path

from llmsim.errors import CatalogError

_PACKAGE = Path(__file__).parent


def folder(kind: str) -> Path:
    """Return the folder of ``kind``, for example ``"hardware/devices"`` or ``"workloads/presets"``.

    Raises:
        CatalogError: the installation holds no such folder.
    """
    for root in (_PACKAGE / "_catalog", _PACKAGE.parent):
        if (root / kind).is_dir():
            return root / kind
    raise CatalogError(f"catalogue: no folder {kind!r} in this installation of llmsim")


def names(kind: str, suffix: str = ".yaml") -> list[str]:
    """Return the names of all entries of ``kind``, in alphabetical order."""
    return sorted(path.name.removesuffix(suffix) for path in folder(kind).glob(f"*{suffix}"))


def find(kind: str, name: str, suffix: str = ".yaml") -> Path:
    """Return the file of entry ``name`` of ``kind``.

    Raises:
        CatalogError: there is no such entry; the message names the three closest ones.
    """
    path = folder(kind) / f"{name}{suffix}"
    if path.is_file():
        return path
    raise CatalogError(unknown(kind, name, names(kind, suffix)))


def unknown(kind: str, name: str, known: list[str]) -> str:
    """Return the message for a ``name`` that is not among the ``known`` ones."""
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4) or known[:3]
    return f"{kind}: unknown name {name!r}\nhint: closest names: {', '.join(close)}"
