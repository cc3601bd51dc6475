"""Predictions held against measurements: rows of measured results, the scenarios they stand for, and the scores."""
