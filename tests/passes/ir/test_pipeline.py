import pytest
from moe_passes.ir.pipeline import default_pipeline, parse_pipeline, written
from moe_passes.plan.errors import InputError


def test_default_pipelines_round_trip_as_text():
    for text in (default_pipeline(), "raise-moe,schedule-round{time-limit=2.5}"):
        assert written(parse_pipeline(text)) == text


def test_white_space_is_free():
    assert [s.name for s in parse_pipeline(" raise-moe , verify-plan ")] == ["raise-moe", "verify-plan"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("raise-mo", "did you mean 'raise-moe'"),
        ("raise-moe,", "comma"),
        ("raise-moe,,verify-plan", "cannot read"),
        ("schedule-round{time-limt=1}", "did you mean 'time-limit'"),
        ("schedule-round{time-limit}", "option=value"),
        ("schedule-round{time-limit=1 time-limit=2}", "twice"),
        ("raise-moe{x=1}", "valid: none"),
        ("raise-moe{", "cannot read"),
    ],
)
def test_malformed_pipelines_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_pipeline(text)
