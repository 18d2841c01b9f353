"""Distances between two stretches of rows, and Evidently's report of them."""
