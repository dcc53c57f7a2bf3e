"""Readers of what annotation tools export, one a form."""
