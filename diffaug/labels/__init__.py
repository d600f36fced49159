"""Labels: what they are, where a sample keeps them, how they are mixed and collated."""
