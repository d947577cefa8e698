"""Decoded images on disk: written once, shared by processes, read at random without page faults."""

from reborn_nas.data.cache.folder import (
    CachedImages,
    CacheEntry,
    ImageFiles,
    cache_root,
    clean_cache,
    list_caches,
)
from reborn_nas.data.cache.records import Records

__all__ = [
    "CacheEntry",
    "CachedImages",
    "ImageFiles",
    "Records",
    "cache_root",
    "clean_cache",
    "list_caches",
]
