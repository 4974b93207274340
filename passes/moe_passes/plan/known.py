"""Published models, known by what they are: a name says nothing, shapes do."""

from typing import NamedTuple

from moe_passes.plan.model import ModelShape

TOLERANCE = 0.01
"""Of a total: fine-tuned models have rows more or less in their vocabulary."""


class Facts(NamedTuple):
    """What tells a model from others: width of the residual stream, decoder layers, parameters in all."""

    hidden: int
    layers: int
    total_parameters: int


KNOWN = {
    "deepseek-v2-lite": Facts(2048, 27, 15_706_484_224),
    "gemma-4-26b-a4b": Facts(2816, 30, 25_233_141_760),
    "glm-4.7-flash": Facts(2048, 47, 29_943_390_976),
    "gpt-oss-20b": Facts(2880, 24, 20_914_757_184),
    "mixtral-8x7b": Facts(4096, 32, 46_702_792_704),
    "olmoe-1b-7b": Facts(2048, 16, 6_919_161_856),
    "qwen3-30b-a3b": Facts(2048, 48, 30_532_122_624),
}
"""Models of which routing or acceptance was measured or published."""


def known_as(model: ModelShape) -> str:
    """Return the name of the published model that has this shape; empty where there is none."""
    for name, facts in KNOWN.items():
        is_near = abs(model.total_parameters - facts.total_parameters) <= TOLERANCE * facts.total_parameters
        if (model.hidden, model.layers) == facts[:2] and is_near:
            return name
    return ""
