"""IR for people."""

import pytest
from moe_passes.ir.dialects import context, parse
from moe_passes.ir.show import lines
from moe_passes.plan.errors import InputError

TEXT = """
module attributes {moe.version = 6 : i64} {
  "moe.request"() {batch = 1 : i64, context = 1024 : i64, cost_model = "analytic", draft_length = -1 : i64, place = "",
    seed = 0 : i64, time_limit_seconds = 1.000000e-02 : f64} : () -> ()
  "moe.bank_set"() {banks = array<i64: 0, 1>, sym_name = "banks0"} : () -> ()
  "moe.expert_store"() {experts = 4 : i64, layer = 0 : i64, msb_bytes = 2500 : i64,
    needed = #moe.permille<array<i64: 7, 0, 1000, 5>>, parameters = 8 : i64,
    placement = #moe.placement<[#moe.replica<1 : i64, @banks0>]>,
    residency = #moe.residency<{msb = array<i64: 1>, whole = array<i64>}>,
    residual_bytes = 0 : i64, sym_name = "layer0", top_k = 2 : i64} : () -> ()
}
"""


def shown(*names: str) -> list[tuple[str, str, str, str]]:
    return lines(parse(TEXT, "text", context()), names)


def test_numbers_have_units() -> None:
    ((where, _, _, says),) = shown("moe.request")
    assert where == "module"
    assert "draft_length auto" in says
    assert "time_limit 10 ms" in says


def test_decisions_are_summed_up() -> None:
    ((_, _, _, says),) = shown("moe.expert_store")
    assert says.startswith("@layer0, ")
    assert "msb 2.5 kB" in says
    assert "residency 1 msb, 0 whole" in says
    assert "placement 1 replicas in 1 bank sets" in says
    assert "needed 0 to 1000 ‰" in says


def test_an_operation_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"moe\.requst.*moe\.request"):
        shown("moe.requst")
