"""Draws the pictures, trains the built-in demo model and its adapters, and writes `farm/demo`. Run `script/train-demo`."""
