"""Doors and composition: HTTP, command line, worker, library."""
