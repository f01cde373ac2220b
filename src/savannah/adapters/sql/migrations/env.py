"""Runs migrations on the connection, and in the transaction, that `schema.migrate` gives."""

from alembic import context

# Without the tables of today, so that constraints get the names that the migrations spell out.
context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
