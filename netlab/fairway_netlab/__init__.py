"""Laboratories out of network namespaces."""
