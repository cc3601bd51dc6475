"""Rows of an access log whose request failed: they asked for tokens that nobody made."""


def has_failed(status: object) -> bool:
    """Whether ``status`` is that of an HTTP error, 400 to 599; words and other numbers are none.

    RFC 9110, section 15: 4xx is an error of the client (429: too many requests), 5xx one of the server.
    """
    try:
        return 400 <= float(str(status)) < 600
    except ValueError:
        return False


def note_of(failed_rows: int) -> str:
    """Return what to say of the rows that were left out."""
    rows = "row" if failed_rows == 1 else "rows"
    return f"left out {failed_rows:,} {rows} with an HTTP status from 400 on: requests that failed"
