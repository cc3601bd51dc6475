"""Data files of the catalogue: YAML read key by key, every complaint with the file and the key."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from llmsim import catalog, units
from llmsim.errors import CatalogError


class File:
    """One mapping of a catalogue file; every complaint names the file and the key."""

    def __init__(self, where: str, content: object) -> None:
        if not isinstance(content, Mapping):
            raise CatalogError(f"{where}: not a mapping of keys to values (got {content!r})")
        self.where = where
        self.content: Mapping[str, Any] = content

    def value(self, key: str) -> Any:
        """Return what stands under ``key``, which must be there."""
        if key not in self.content:
            raise CatalogError(f"{self.where}: {key}: missing")
        return self.content[key]

    def text(self, key: str) -> str:
        """Return a text that is not empty."""
        value = self.value(key)
        if not isinstance(value, str) or not value:
            raise CatalogError(f"{self.where}: {key}: not a text (got {value!r})")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """Return one of ``choices``."""
        value = self.text(key)
        if value not in choices:
            raise CatalogError(f"{self.where}: {key}: not one of {', '.join(choices)} (got {value!r})")
        return value

    def quantity(self, key: str, dimension: str) -> float:
        """Return a quantity with its unit (see `llmsim.units.parse`); positive, but for durations."""
        try:
            value = units.parse(self.value(key), dimension)
        except units.QuantityError as error:
            raise CatalogError(f"{self.where}: {key}: {error}") from None
        if dimension != "s" and value <= 0:
            raise CatalogError(f"{self.where}: {key}: must be positive (got {self.content[key]!r})")
        return value

    def count(self, key: str) -> int:
        """Return a whole number above zero."""
        value = self.quantity(key, "1")
        if value != int(value):
            raise CatalogError(f"{self.where}: {key}: not a whole number (got {self.content[key]!r})")
        return int(value)

    def inner(self, key: str) -> "File":
        """Return the mapping under ``key``."""
        return File(f"{self.where}: {key}", self.value(key))

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts, empty when the key is missing."""
        value = self.content.get(key) or []
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise CatalogError(f"{self.where}: {key}: not a list of texts (got {value!r})")
        return tuple(value)

    def only(self, *keys: str) -> None:
        """Refuse every key but ``keys``."""
        for key in self.content:
            if key not in keys:
                raise CatalogError(catalog.unknown(f"{self.where}: key", str(key), sorted(keys)))

    def sources(self, *numbers: str) -> dict[str, str]:
        """Return who says so: a text for each of ``numbers``, or ``default`` for those not named."""
        said = self.inner("sources").content
        for key, text in said.items():
            if key not in (*numbers, "default") or not isinstance(text, str) or not text:
                raise CatalogError(f"{self.where}: sources: {key}: not the source of a number in this file")
        for key in numbers:
            if key in self.content and key not in said and "default" not in said:
                raise CatalogError(f"{self.where}: sources: nothing is said of {key}")
        return dict(said)


_Loaded = TypeVar("_Loaded")


def load(kind: str, source: str | Path | Mapping[str, Any], make: Callable[[str, File], _Loaded]) -> _Loaded:
    """Return what ``make`` makes of a file: of a catalogue entry by name or alias, of a path, or of a mapping.

    A mapping, as in a scenario file, may leave out the title and the sources.

    Raises:
        CatalogError: the entry is unknown, or its file is missing or wrong.
    """
    if isinstance(source, Mapping):
        name = str(source.get("name", "inline"))
        said = {"title": name, "sources": {"default": "given inline"}, **source}
        said.pop("name", None)
        return make(name, File(f"{kind} {name}", said))
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        path = _find(kind, str(source))
        return make(path.stem, File(f"hardware/{kind}/{path.name}", _yaml(path)))
    if not path.is_file():
        raise CatalogError(f"hardware/{kind}: no such file (got {str(source)!r})")
    return make(path.stem, File(str(source), _yaml(path)))


def _yaml(path: Path) -> object:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CatalogError(f"{path.name}: not YAML: {' '.join(str(error).split())}") from None


def _find(kind: str, name: str) -> Path:
    folder = f"hardware/{kind}"
    known = catalog.names(folder)
    wanted = name.strip().lower().replace("_", "-").replace(" ", "-")
    if wanted in known:
        return catalog.find(folder, wanted)
    aliases: dict[str, str] = {}
    for entry in known:
        content = _yaml(catalog.find(folder, entry))
        said = content.get("aliases") if isinstance(content, dict) else None
        aliases.update((str(alias).lower(), entry) for alias in said or ())
    if wanted in aliases:
        return catalog.find(folder, aliases[wanted])
    raise CatalogError(catalog.unknown(f"hardware/{kind}", name, sorted([*known, *aliases])))
