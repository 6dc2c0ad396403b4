"""Predictions: what a model says of a file, and how it is shown."""
