"""Text files that are written: UTF-8, the same bytes on every system, compressed where the name ends in .gz."""

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def written(path: Path) -> Iterator[TextIO]:
    """Open ``path`` to be written; line ends stay as they are.

    Raises:
        OSError: it cannot be written.
    """
    if path.suffix == ".gz":
        # a fixed time of modification, so that equal content gives equal files
        with (
            open(path, "wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
            io.TextIOWrapper(packed, encoding="utf-8", newline="") as text,
        ):
            yield text
    else:
        with open(path, "w", encoding="utf-8", newline="") as text:
            yield text
