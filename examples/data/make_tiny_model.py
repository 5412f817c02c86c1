"""Make the quick start's model: a tiny Qwen2 that barely sorts digits, so that GRPO does the learning.

    python examples/data/make_tiny_model.py --data outputs/quickstart/data/train.jsonl \\
        --output-dir outputs/quickstart/model

A randomly initialised model (0.6 M parameters, one token a byte) is trained on the answers until 512 sampled
responses score `--stop-reward` on average, and is saved as an ordinary Hugging Face directory. Without this
warm-up no sample would ever be right, and a policy gradient has nothing to learn from.
"""

import argparse
import json
import os
import random
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import pre_tokenizers
from tqdm import tqdm
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from transformers.utils import logging

NUM_EVAL_SAMPLES = 512
MAX_RESPONSE_TOKENS = 8
IGNORED = -100  # the label that cross_entropy leaves out

Row = tuple[str, str]  # prompt, answer


def make_tokenizer() -> Qwen2Tokenizer:
    """Qwen2's tokenizer without merges: one token a byte, plus `<pad>` and `<eos>`.

    It is that class, and no simpler one of our own, because AutoTokenizer rebuilds it for every `qwen2` config.json.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate(["<pad>", "<eos>", *alphabet])},
        merges=[],
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token=None,
        padding_side="left",
        model_max_length=128,
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
    )


def make_model(tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """Qwen2 with 0.6 M parameters, grouped-query attention and tied embeddings."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            use_sliding_window=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def read_rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as lines:
        return [(row["prompt"], row["answer"]) for row in map(json.loads, lines)]


def supervised_loss(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, rows: list[Row]) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens, the closing one included."""
    prompts = [tokenizer.encode(prompt, add_special_tokens=False) for prompt, _ in rows]
    answers = [
        [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id] for _, answer in rows
    ]
    length = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    input_ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    labels = torch.full((len(rows), length), IGNORED)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        input_ids[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    logits = model(input_ids=input_ids).logits  # [batch, length, vocabulary]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)


@torch.no_grad()
def sampled_reward(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, rows: list[Row]) -> float:
    """Share of rows whose response, sampled at temperature 1, is the answer."""
    prompts = tokenizer(
        [prompt for prompt, _ in rows], return_tensors="pt", padding=True, add_special_tokens=False
    )
    sequences = model.generate(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        max_new_tokens=MAX_RESPONSE_TOKENS,
    )
    responses = tokenizer.batch_decode(sequences[:, prompts.input_ids.shape[1] :], skip_special_tokens=True)
    right = sum(response == answer for response, (_, answer) in zip(responses, rows, strict=True))
    return right / len(rows)


def warm_up(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, rows: list[Row], args: argparse.Namespace
) -> tuple[int, float]:
    """Train until the sampled reward reaches `args.stop_reward`; the steps taken and the reward reached."""
    generator = random.Random(args.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    reward = 0.0
    with tqdm(total=args.max_steps, desc="warm-up", unit="step") as progress:
        for step in range(1, args.max_steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = args.lr * min(1.0, step / 20)
            loss = supervised_loss(model, tokenizer, generator.sample(rows, args.batch_size))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if step % args.eval_interval == 0:
                model.eval()
                reward = sampled_reward(
                    model, tokenizer, generator.sample(rows, min(NUM_EVAL_SAMPLES, len(rows)))
                )
                model.train()
            progress.set_postfix(loss=f"{loss.item():.3f}", reward=f"{reward:.3f}")
            progress.update()
            if reward >= args.stop_reward:
                return step, reward
    raise SystemExit(
        f"the sampled reward was {reward:.3f} after {args.max_steps} steps, below {args.stop_reward}"
    )


def save(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, output_dir: Path) -> None:
    """Write the Hugging Face directory beside its place, then rename."""
    partial = output_dir.with_name(f"{output_dir.name}.{os.getpid()}.partial")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    if output_dir.exists():
        shutil.rmtree(output_dir)
    partial.replace(output_dir)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="train.jsonl of make_sort_digits.py")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output directory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop-reward", type=float, default=0.05, help="(default: %(default)s)")
    parser.add_argument("--lr", type=float, default=2e-3, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument(
        "--max-steps", type=int, default=400, help="give up after so many (default: %(default)s)"
    )
    parser.add_argument(
        "--eval-interval", type=int, default=1, help="steps between looks (default: %(default)s)"
    )
    args = parser.parse_args()
    if not args.data.is_file():
        parser.error(f"--data {args.data}: no such file; make_sort_digits.py writes it")
    if args.output_dir.exists() and not args.overwrite:
        parser.error(f"--output-dir {args.output_dir} exists; name another, or replace it with --overwrite")
    return args


def main() -> None:
    args = parse_arguments()
    logging.disable_progress_bar()
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    steps, reward = warm_up(model, tokenizer, read_rows(args.data), args)
    save(model, tokenizer, args.output_dir)
    print(
        f"{args.output_dir}: {model.num_parameters():,} parameters, sampled reward {reward:.3f} after {steps} steps"
    )


if __name__ == "__main__":
    main()
