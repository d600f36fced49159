"""A finished set in the formats that other programs read."""
