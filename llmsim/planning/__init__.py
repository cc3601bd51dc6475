"""How much a deployment carries, and how little of a deployment carries a load."""
