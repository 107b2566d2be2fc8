"""Techniques that are one file each, and need nothing beside it; see ``docs/develop/add-a-technique.md``."""
