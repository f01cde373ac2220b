"""Runs migrations on the connection that `schema.migrate` gives, each in a transaction.

On SQLite that connection is in a transaction already, which all of them share.
"""

from alembic import context

# Without the tables of today, so that constraints get the names that the migrations spell out.
context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
