"""One round as tasks."""
