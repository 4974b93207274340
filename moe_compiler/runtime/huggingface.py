"""transformers' configurations: built quietly, with plain errors."""

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' advice about configurations, and its progress bars, off stderr."""
    from transformers.utils import logging as transformers_logging

    before, had_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(before)
        if had_bars:
            transformers_logging.enable_progress_bar()


def model_types() -> list[str]:
    """Return the model types that transformers knows."""
    from transformers import CONFIG_MAPPING

    return list(CONFIG_MAPPING.keys())


@functools.cache
def causal_classes() -> dict[str, str]:
    """Return the model type of every causal language model class of transformers."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()
    return {name: kind for kind, classes in names for name in ([classes] if isinstance(classes, str) else classes)}


def is_causal(model_type: str) -> bool:
    """Say whether transformers has a causal language model of a model type."""
    return model_type in causal_classes().values()


UNIMPORTANT = (
    "_name_or_path",
    "transformers_version",
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "use_cache",
    "output_router_logits",
)
"""Fields of a configuration that say nothing of what its weights are."""


def difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Say in what two configurations are of different weights; nothing where they are not."""
    for key in sorted({*one, *other} - set(UNIMPORTANT)):
        if one.get(key) != other.get(key):
            return f"{key} is {str(one.get(key))[:60]}, and {str(other.get(key))[:60]}"
    return ""


def configuration(content: dict[str, Any]) -> Any:
    """Build the transformers configuration of a `config.json`; quantisation and code of its own are left out.

    Raises:
        KeyError: transformers does not know the model type.
        ValueError: transformers refuses a field.
    """
    from transformers import CONFIG_MAPPING

    content = {k: v for k, v in content.items() if k not in ("quantization_config", "auto_map")}
    kind = CONFIG_MAPPING[content.pop("model_type")]
    with quiet_transformers():
        try:
            return kind(**content)
        except Exception as error:
            reason = str(error).strip().splitlines()
            raise ValueError(reason[-1] if reason else repr(error)) from None
