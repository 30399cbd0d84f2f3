"""Load balancing: services to nftables."""
