"""Whether generated images help a classifier on the user's own photographs, arm by arm."""
