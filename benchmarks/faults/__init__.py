"""Faults of the stream, and whether what is committed equals the offline features of the archive."""
