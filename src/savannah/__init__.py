"""Savannah."""
