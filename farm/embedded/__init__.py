"""Redis, S3 and Farm's own services as child processes of `farm up`."""
