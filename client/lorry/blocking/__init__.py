"""A small blocking client on the same core as `AsyncClient`, for scripts, threads and gevent."""
