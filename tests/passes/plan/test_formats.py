import pytest
from moe_passes.plan.errors import InputError
from moe_passes.plan.formats import FORMATS, of_quantization, parse_format
from moe_passes.plan.place import parse_place

# Published sizes of files, in bytes: routed weights, weights of the rest without the embedding, of the embedding, file.
QWEN3 = (48 * 128 * 3 * 2048 * 768, 30_532_122_624 - 48 * 128 * 3 * 2048 * 768 - 151_936 * 2048, 151_936 * 2048)
MIXTRAL = (32 * 8 * 3 * 4096 * 14336, 46_702_792_704 - 32 * 8 * 3 * 4096 * 14336 - 32_000 * 4096, 32_000 * 4096)
GPT_OSS_20B = (24 * 32 * 3 * 2880 * 2880, 20_914_757_184 - 24 * 32 * 3 * 2880 * 2880 - 201_088 * 2880, 201_088 * 2880)
GPT_OSS_120B = (
    36 * 128 * 3 * 2880 * 2880,
    116_829_156_672 - 36 * 128 * 3 * 2880 * 2880 - 201_088 * 2880,
    201_088 * 2880,
)
FILES = [
    ("gguf:q8_0", QWEN3, 32.48),
    ("gguf:q4_k_m", QWEN3, 18.56),
    ("gguf:q6_k", QWEN3, 25.09),
    ("gguf:q5_k_m", QWEN3, 21.73),
    ("gguf:q3_k_m", QWEN3, 14.71),
    ("bf16", QWEN3, 61.07),
    ("gguf:q8_0", MIXTRAL, 49.62),
    ("gguf:q6_k", MIXTRAL, 38.38),
    ("gguf:mxfp4", GPT_OSS_20B, 12.11),
    ("gguf:mxfp4", GPT_OSS_120B, 63.39),
]


@pytest.mark.parametrize(("name", "weights", "published_gb"), FILES, ids=str)
def test_bytes_agree_with_published_files(name, weights, published_gb):
    """Sizes of files on Hugging Face, in GB; each within 3 %."""
    of = FORMATS[name]
    size = sum(w * bits / 8 for w, bits in zip(weights, (of.experts, of.dense, of.embedding), strict=True))
    assert size / 1e9 == pytest.approx(published_gb, rel=0.03)


def test_bits_may_be_given_by_class():
    of = parse_format("experts=4.5,dense=8.5,kv=8")
    assert (of.experts, of.dense, of.kv, of.embedding, of.sliced) == (4.5, 8.5, 8, 16, 0)
    assert parse_format("int8-sliced").sliced == 4.5
    changed = parse_format("int8-sliced,kv=32")
    assert (changed.name, changed.kv, changed.experts, changed.sliced) == ("int8-sliced,kv=32", 32, 8.5, 4.5)
    assert (parse_format("int8-sliced,experts=4").sliced, parse_format("int8-sliced,dense=4").dense_sliced) == (0, 0)
    assert parse_format("int8-sliced,dense=8.5").dense_sliced == 4.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("int3", "no such format"),
        ("bf61", "did you mean 'bf16'"),
        ("experts=4.5", "says nothing of dense"),
        ("experts=0,dense=8", "experts of '0' bits"),
        ("experts=64,dense=8", "0.5 to 32"),
        ("experts=nan,dense=8", "experts of 'nan'"),
        ("experts=4,experts=5,dense=8", "each once"),
        ("router=4,dense=8", "experts, dense, kv, embedding"),
    ],
)
def test_formats_that_are_none_are_refused(text, words):
    with pytest.raises(InputError, match=words):
        parse_format(text)


def test_a_configuration_chooses_the_format():
    assert of_quantization(None).name == "int8-sliced"
    assert of_quantization("awq").name == of_quantization("gptq").name == "int4-g128"
    with pytest.raises(InputError, match="method 'bitsandbytes' is not known"):
        of_quantization("bitsandbytes")


def test_placements_are_read():
    assert parse_place("near-share=0.3:random").order == "random"
    assert parse_place("near-share=.25").share == 0.25
    assert (parse_place("cache=7").loads, parse_place("experts=far").loads) == (True, False)
    assert parse_place("layers=5:far").number == 5


@pytest.mark.parametrize(
    "text",
    ["", "near", "near-share=1.5", "near-share=-1", "cache=", "cache=x", "layers=3", "experts=deep", "cache=1e9"],
)
def test_placements_that_are_none_are_refused(text):
    with pytest.raises(InputError, match="valid: "):
        parse_place(text)


def test_what_a_terminal_would_obey_is_not_repeated_as_it_is():
    with pytest.raises(InputError) as error:
        parse_place("near\n\x1b[31m")
    assert "\x1b" not in str(error.value)
