"""The trained model of examples, run as people run it."""

import subprocess
from pathlib import Path

from tests.command import moec

MODEL = Path(__file__).parents[1] / "examples" / "tiny-moe"
PROMPTS = ("def main():\n    ", "import os\nimport sys\n\n\nclass Reader:\n    def __init__(self", "x")


def run(
    folder: Path, store: Path, *options: object, prompts: tuple[str, ...] = PROMPTS[:1], tokens: int = 24
) -> subprocess.CompletedProcess[str]:
    """Generate so many tokens after each of the prompts."""
    texts = [word for prompt in prompts for word in ("--prompt", prompt)]
    return moec("run", folder, "--weights", store, *texts, "--max-new-tokens", tokens, *options)
