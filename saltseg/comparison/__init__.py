"""Runs against runs: who is better, by how much, and how it looks."""
