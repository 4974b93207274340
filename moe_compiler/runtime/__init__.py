"""What an emitted schedule.py runs on: torch only, no MLIR, no OR-Tools, no transformers."""
