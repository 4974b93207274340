"""Compiler passes for mixture-of-experts models on banked memories.

Every pass is one folder: `problem` (arrays in), `bound`, `solve`, `check`, and `rewrite`, the only file
that knows MLIR. All but `rewrite`, `dialects` and `pipeline` work without MLIR installed.
"""

__version__ = "0.1.0"
