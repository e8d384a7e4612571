"""The tag language: text in, strengths per layer and step out. Torch-free."""
