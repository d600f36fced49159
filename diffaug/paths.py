"""Where things are kept between runs."""

import os
from pathlib import Path


def cache_root() -> Path:
    """Return the cache folder: ``DIFFAUG_CACHE``, or the platform's folder for caches."""
    configured = os.environ.get("DIFFAUG_CACHE")
    if configured:
        return Path(configured).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("diffaug", appauthor=False)
