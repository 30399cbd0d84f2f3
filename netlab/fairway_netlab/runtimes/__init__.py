"""Real container runtimes inside a laboratory node, offline: containerd through ctr, podman with CNI."""
