"""The Kubernetes API server as a store: read by list and watch, never written through the store contract."""
