"""`moec pack` and `moec unpack`: a checkpoint as a store of slices, and a store as a checkpoint."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moe_passes.plan.errors import InputError

from moe_compiler.backend.folder import check_file, check_free
from moe_compiler.frontend.models import load_model

SLICES = ("full", "msb")
Progress = Callable[[str], None]


def pack(model: Any, weights: str | Path, output: str | Path, progress: Progress = lambda text: None) -> dict[str, Any]:
    """Write a model's weights as a store; returns its path and size.

    Args:
        model: as for `compile`.
        weights: a folder with *.safetensors of that model.
        output: the file that is made.
        progress: hears what is packed.

    Raises:
        InputError: weights that are not this model's, or that are no finite numbers; the store cannot be written.
    """
    path = Path(output)
    check_file(path)
    source = load_model(model)
    from moe_compiler.runtime.pack import pack as write

    try:
        write(source.config, Path(weights), path, progress)
    except KeyError as error:
        raise InputError(f"{source.name}: transformers knows no model type {error}; valid: one that it knows") from None
    except ValueError as error:
        raise InputError(str(error)) from None
    except OSError as error:
        raise InputError(f"-o {path}: cannot be written: {error.strerror}") from None
    return {"store": str(path), "bytes": path.stat().st_size}


def unpack(
    store: str | Path, output: str | Path, slice: str = "full", progress: Progress = lambda text: None
) -> dict[str, Any]:
    """Write a store's weights as a checkpoint in float32 that transformers loads; returns its path and size.

    Args:
        store: what `pack` wrote.
        output: the folder that is made.
        slice: `full`: what verify computes with; `msb`: what a draft on slices computes with.
        progress: hears what is unpacked.

    Raises:
        InputError: no store, a damaged one, or a folder that cannot be made.
    """
    if slice not in SLICES:
        raise InputError(f"--slice {slice}; valid: {' or '.join(SLICES)}")
    folder = Path(output)
    check_free(folder)
    from moe_compiler.runtime.pack import unpack as write
    from moe_compiler.runtime.store_file import StoreFile

    draft = Path(tempfile.mkdtemp(dir=folder.absolute().parent, prefix=f".{folder.name}."))
    try:
        found = StoreFile(Path(store))
        write(found, draft, slice == "msb", progress)
        found.close()
        draft.chmod(0o755)
        draft.rename(folder)
    except (KeyError, ValueError) as error:
        raise InputError(f"{store}: {error}" if isinstance(error, KeyError) else str(error)) from None
    except OSError as error:
        raise InputError(f"-o {folder}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return {"folder": str(folder), "bytes": sum(path.stat().st_size for path in folder.iterdir())}
