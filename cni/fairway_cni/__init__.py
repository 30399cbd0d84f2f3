"""Container attachment: CNI protocol, addresses, wiring."""
