"""The only door to the kernel: nftables, links, namespaces, conntrack."""
