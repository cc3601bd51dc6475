"""The pytest plugin: fixtures for percentile regression tests.  It imports pytest and nothing heavier."""
