"""A cluster come alive on the SimPy clock: links, flows, hosts, devices."""
