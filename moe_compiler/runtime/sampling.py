"""Which token follows: the likeliest, or one drawn; and which drafted tokens stand, so that drafting changes nothing.

Speculative sampling (Leviathan et al. 2023, algorithm 1): a token x that was drawn from the draft's q stands with
probability min(1, p(x) / q(x)); where it does not, one is drawn from what of p is beyond q. What comes out is
distributed as the target's p.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: that logits are divided by.
        top_p: tokens are drawn from the likeliest ones that have so much of the probability together.
        seed: of the draws; every sequence has its own.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the distribution that tokens are drawn from: [vocabulary] float64."""
        if not logits.isfinite().all():
            raise ValueError("the model's scores are not finite: nothing can be drawn from them")
        shares = torch.softmax(logits.to(torch.float64) / self.temperature, dim=-1)
        if self.top_p >= 1:
            return shares
        ordered, order = torch.sort(shares, descending=True, stable=True)
        # A token stays while those before it have less than top_p.
        kept = torch.cumsum(ordered, dim=-1) - ordered < self.top_p
        result = torch.zeros_like(shares)
        result[order[kept]] = ordered[kept]
        return result / result.sum()


class Chooser:
    """Chooses the tokens of one sequence: greedily, or by drawing.

    Attributes:
        sampling: how tokens are drawn; None: the likeliest is taken.
    """

    def __init__(self, sampling: Sampling | None, sequence: int) -> None:
        self.sampling = sampling
        self._random = torch.Generator()
        if sampling is not None:
            self._random.manual_seed(sampling.seed * 1_000_003 + sequence)
        self._drafts: list[Tensor] = []

    def draft(self, logits: Tensor) -> int:
        """Choose the next drafted token from [vocabulary] logits of the draft."""
        if self.sampling is None:
            return int(torch.argmax(logits))
        shares = self.sampling.probabilities(logits)
        self._drafts.append(shares)
        return self._drawn(shares)

    def verify(self, drafted: list[int], logits: Tensor) -> list[int]:
        """Return the tokens that follow: of the drafted ones those that stand, and one more.

        Args:
            drafted: tokens of the draft.
            logits: of the target after the last token and after each drafted one: [1 + drafted, vocabulary].
        """
        drafts, self._drafts = self._drafts, []
        if self.sampling is None:
            choices = torch.argmax(logits, dim=1).tolist()
            matching = next((n for n, token in enumerate(drafted) if token != choices[n]), len(drafted))
            return choices[: matching + 1]
        tokens: list[int] = []
        for token, draft, row in zip(drafted, drafts, logits, strict=False):
            target = self.sampling.probabilities(row)
            if float(torch.rand((), generator=self._random, dtype=torch.float64)) * draft[token] < target[token]:
                tokens.append(token)
                continue
            beyond = (target - draft).clamp(min=0)
            return [*tokens, self._drawn(beyond if float(beyond.sum()) > 0 else target)]
        return [*tokens, self._drawn(self.sampling.probabilities(logits[len(drafted)]))]

    def _drawn(self, shares: Tensor) -> int:
        return int(torch.multinomial(shares, 1, generator=self._random))
