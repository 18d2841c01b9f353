"""The `models` commands: list, add, verify, promote, roll back. Only promote and sync need the training extra."""
