"""Where data from public places lies: it is not part of the project (docs/profiles.md says where the originals are).

The folder is `$MOE_DATA`, else `../shared/data` beside the checkout.
"""

import os
from pathlib import Path

FOLDER = Path(os.environ.get("MOE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def public(name: str) -> Path | None:
    """Return a file of public data, None where it is not there."""
    path = FOLDER / name
    return path if path.is_file() else None
