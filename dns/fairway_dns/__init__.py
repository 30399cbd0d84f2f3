"""Names: zone, cache, forwarder, workers."""
