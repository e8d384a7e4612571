"""Layer names and shapes of a family, from its config alone (torch-free)."""
