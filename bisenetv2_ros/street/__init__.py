"""A rendered street scene with exact labels."""
