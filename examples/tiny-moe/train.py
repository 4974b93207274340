"""Train the model of this folder: a Qwen3-MoE of 5 million parameters on the Python standard library's sources.

    python examples/tiny-moe/train.py

Writes config.json, model.safetensors (bfloat16), the tokenizer, loss.csv and loss.png beside this file. It reads the
standard library of the Python that runs it, so another version of Python gives another model.
"""

import argparse
import csv
import hashlib
import math
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from matplotlib import pyplot
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.utils import logging

HERE = Path(__file__).parent
END = "<|endoftext|>"
VOCABULARY, LENGTH, BATCH = 1024, 256, 8
PEAK_RATE, WARM_UP = 3e-3, 50
HELD_OUT = 20
"""Every so many-th file is held out."""
SKIPPED = ("test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "encodings", "turtledemo")


def sources() -> list[str]:
    """Return the texts of the standard library, in order of their paths; tests and tables are left out."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in sorted(root.rglob("*.py")) if not set(path.relative_to(root).parts) & set(SKIPPED)]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    return [text for text in texts if 500 < len(text) < 300_000]


def tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=END)


def configuration() -> Qwen3MoeConfig:
    """Return the model's shape."""
    return Qwen3MoeConfig(
        architectures=["Qwen3MoeForCausalLM"],
        vocab_size=VOCABULARY,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=256,
        moe_intermediate_size=128,
        num_experts=16,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        router_aux_loss_coef=0.003,
        output_router_logits=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        dtype="bfloat16",
    )


def encoded(words: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """Return the tokens of texts, each ended."""
    ids: list[int] = []
    for text in texts:
        ids += [*words(text)["input_ids"], words.eos_token_id]
    return torch.tensor(ids)


def batches(tokens: Tensor, seed: int) -> Iterator[Tensor]:
    """Yield [batch, length + 1] pieces at random places, without end."""
    random = torch.Generator().manual_seed(seed)
    while True:
        first = torch.randint(len(tokens) - LENGTH - 1, (BATCH,), generator=random)
        yield torch.stack([tokens[n : n + LENGTH + 1] for n in first.tolist()])


def held_out_loss(model: Qwen3MoeForCausalLM, tokens: Tensor) -> float:
    """Return the mean loss per token of the first held-out pieces, in nats."""
    pieces = tokens[: 16 * (LENGTH + 1)].view(16, -1)
    with torch.inference_mode():
        logits = model(input_ids=pieces[:, :-1], output_router_logits=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), pieces[:, 1:].flatten())
    return float(loss)


def rate(step: int, steps: int) -> float:
    """Return the learning rate: a short rise, then half a cosine."""
    if step < WARM_UP:
        return PEAK_RATE * (step + 1) / WARM_UP
    return PEAK_RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / max(1, steps - WARM_UP))))


def main() -> None:
    """Train, and write what comes of it."""
    parser = argparse.ArgumentParser(description="Train examples/tiny-moe.")
    parser.add_argument("--steps", type=int, default=2400, help=f"of {BATCH} x {LENGTH} tokens (default: 2400)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=HERE)
    options = parser.parse_args()
    logging.disable_progress_bar()
    torch.manual_seed(options.seed)
    texts = sources()
    train = [text for n, text in enumerate(texts) if n % HELD_OUT]
    words = tokenizer(train)
    tokens, unseen = encoded(words, train), encoded(words, texts[::HELD_OUT])
    digest = hashlib.sha256("".join(texts).encode()).hexdigest()
    print(f"{len(texts)} files, {len(tokens):,} tokens to train on, sha256 {digest[:16]}", flush=True)
    model = Qwen3MoeForCausalLM._from_config(configuration(), dtype=torch.float32)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    rows: list[tuple[int, float, float]] = []
    start, mean = time.perf_counter(), 0.0
    for step, piece in zip(range(options.steps), batches(tokens, options.seed), strict=False):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, options.steps)
        output = model(input_ids=piece[:, :-1], output_router_logits=True)
        loss = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), piece[:, 1:].flatten())
        total = loss + model.config.router_aux_loss_coef * output.aux_loss if output.aux_loss is not None else loss
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        mean = float(loss.detach()) if not step else 0.95 * mean + 0.05 * float(loss.detach())
        if step % 50 == 49 or step == options.steps - 1:
            rows.append((step + 1, round(mean, 4), round(held_out_loss(model, unseen), 4)))
            print(*rows[-1], f"{(time.perf_counter() - start) / (step + 1):.2f} s a step", flush=True)
            write(options.output, model, words, rows)


def write(
    folder: Path, model: Qwen3MoeForCausalLM, words: PreTrainedTokenizerFast, rows: list[tuple[int, float, float]]
) -> None:
    """Write the checkpoint as it is now."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = Qwen3MoeForCausalLM._from_config(model.config, dtype=torch.bfloat16)
    kept.load_state_dict(model.state_dict())
    kept.config.output_router_logits = False
    kept.save_pretrained(folder)
    kept.config.output_router_logits = True
    words.save_pretrained(folder)
    with (folder / "loss.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("step", "training_nats", "held_out_nats"), *rows])
    draw(folder / "loss.png", rows)


def draw(path: Path, rows: list[tuple[int, float, float]]) -> None:
    """Draw the loss over steps."""
    figure, axes = pyplot.subplots(figsize=(6, 3.2))
    steps, training, unseen = zip(*rows, strict=True)
    axes.plot(steps, training, label="training (moving mean)")
    axes.plot(steps, unseen, label="held-out files")
    axes.set(xlabel="step of 2,048 tokens", ylabel="nats a token", ylim=(0, None))
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
