"""The command line: `farm …`."""
