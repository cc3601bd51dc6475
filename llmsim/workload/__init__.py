"""Workloads: trace readers, arrival processes and lengths, turned into requests."""
