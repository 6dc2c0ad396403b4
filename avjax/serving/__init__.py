"""A page and a JSON endpoint that judge clips of strangers."""
