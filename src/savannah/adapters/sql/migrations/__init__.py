"""Alembic migrations; `savannah.adapters.sql.migrate` runs them."""
