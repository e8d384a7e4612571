"""HTTP client of the API, used by the command line and by scripts."""
