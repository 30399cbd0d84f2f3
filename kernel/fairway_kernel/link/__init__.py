"""Links, addresses, routes and neighbours of the node and inside containers."""
