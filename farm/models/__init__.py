"""Diffusion model families: layouts (torch-free), loading, encoding, the step machine."""
