"""What a step costs: kernels, collectives, memory; never the clock."""
