"""What was predicted, joined with what happened a minute later, as both come in."""
