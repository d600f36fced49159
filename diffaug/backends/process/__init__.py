"""A model in a process of its own: its side, the callers' side, and what they say."""
