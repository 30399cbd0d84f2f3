"""Real container runtimes inside a laboratory node, offline: containerd (ctr and CRI), podman with CNI, plain runc."""
