"""The JSON documents that are written and read: one model each, and their JSON Schema (`moec schema`)."""
