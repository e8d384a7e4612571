"""Bytes: S3 and the content-addressed disk cache."""
