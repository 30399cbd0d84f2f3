"""Revisioned object stores: list, watch, put."""
