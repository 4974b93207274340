"""What a plan is worth: held-out rounds, and what limits the scheduled one."""
