"""Readers of request traces: each turns one file format into the same rows, one at a time."""

from llmsim.workload.readers.detect import detect, format_named
from llmsim.workload.readers.formats import FORMATS, Format
from llmsim.workload.readers.rows import Reading, ReadOptions, Row

__all__ = ["FORMATS", "Format", "ReadOptions", "Reading", "Row", "detect", "format_named"]
