"""CNI: the plugin protocol, address management, the wiring of containers, and installation on a node."""
