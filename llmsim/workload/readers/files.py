"""Open a trace as text, compressed or not, and never more of it than is asked for."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TextIO, cast

from llmsim.errors import TraceError

_GZIP_MAGIC = b"\x1f\x8b"


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open ``path`` as UTF-8 text with its line ends left alone; gzip is recognised by content.

    Raises:
        TraceError: there is no such file, it cannot be read, it is not text, or its compressed data are broken.
    """
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            binary = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if packed else raw
            with io.TextIOWrapper(cast(io.BufferedReader, binary), encoding="utf-8-sig", newline="") as text:
                yield text
    except FileNotFoundError:
        raise TraceError(f"trace: no such file {str(path)!r}") from None
    except UnicodeDecodeError as error:
        raise TraceError(f"{path.name}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TraceError(f"{path.name}: the compressed file is broken or ends early ({error})") from None
    except OSError as error:
        raise TraceError(f"{path.name}: cannot be read ({error.strerror or error})") from None


def head(path: Path, characters: int = 65_536) -> str:
    """Return the beginning of a file."""
    with open_text(path) as text:
        return text.read(characters)


def first_lines(path: Path, count: int = 50, characters: int = 65_536) -> list[str]:
    """Return the first whole lines of a file: ``count`` at most, and no more after so many ``characters``."""
    lines: list[str] = []
    with open_text(path) as text:
        for line in text:
            lines.append(line)
            characters -= len(line)
            if len(lines) >= count or characters <= 0:
                break
    return lines


def count_lines(path: Path, *, most_bytes: int = 64 * 2**20) -> int | None:
    """Return the number of lines with something on them of an uncompressed file, None when it is too large."""
    try:
        if path.stat().st_size > most_bytes:
            return None
        with open(path, "rb") as raw:
            if raw.read(2) == _GZIP_MAGIC:
                return None
            raw.seek(0)
            lines, last = 0, b"\n"
            while block := raw.read(1 << 20):
                lines += block.count(b"\n")
                last = block[-1:]
    except OSError:
        return None
    return lines + (last != b"\n")
