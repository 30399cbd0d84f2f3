"""Tenant isolation: documents to verdicts to nftables."""
