"""The control API: HTTP over a unix socket (README.md lists the paths)."""
