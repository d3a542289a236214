"""The pages, each read from top to bottom."""
