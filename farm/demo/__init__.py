"""The built-in demo model and its style adapters: files, and `catalog`, which says what they are."""
