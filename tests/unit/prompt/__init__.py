"""Tests of the tag language."""
