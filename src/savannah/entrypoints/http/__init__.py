"""The REST door: Litestar handlers that translate, and nothing more."""
