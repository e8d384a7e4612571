"""Decides which worker renders which job. Never imports torch."""
