"""Adapter files by their header: names, shapes, algorithms, family (torch-free)."""
