"""What an emitted schedule.py runs on: torch, safetensors, transformers (the model's own code); nothing of ours."""
