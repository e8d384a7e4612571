"""One device: fetch, patch, sample, store, record."""
