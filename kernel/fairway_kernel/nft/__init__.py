"""nftables: objects, transactions that print themselves, runners."""
