"""Other orders of service over the steps of continuous batching: shortest first, fair shares, earliest deadline."""
