"""MLIR: the dialects, reading and writing values in a module, and the passes. Nothing else imports MLIR."""
