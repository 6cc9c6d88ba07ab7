"""A task whose optimum is known: answer with the word that the prompt names, and with no other.

The score of a completion is the share of its tokens that are the word of the prompt; ends of lines
and end-of-text are not counted, and of nothing it is 0. The optimum is 1: the word, once or more,
then end-of-text. `Task.score` computes it in plain Python; `Task.save_reward_model` writes a reward
model that computes the same with attention. Its weights are set by hand and nothing is trained: PPO
gets it as it gets any other.

`answers` are those of a writer who often errs: a policy that has read them does the task about as
often as the writer, and has to be brought to the optimum by its reward.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

OPTIMUM = 1.0
ANIMALS = ("cat", "dog", "duck", "fox")
PROMPTS = {f"Name a {c} {a}.": a for c in ("red", "blue", "green", "white") for a in ANIMALS}
TEMPLATE = "{prompt}\n\n"
SHARP = 40.0  # nats between what attention heeds and what it does not; half of that beside a sink
SMALL = 0.01  # the share is kept so small that the last normalisation does not see it


def answers(count: int, seed: int = 1) -> list[tuple[str, str]]:
    """Prompts, each with one to three words: half of them its animal, the others at random."""
    rng = random.Random(seed)
    made = []
    for prompt, animal in rng.choices(list(PROMPTS.items()), k=count):
        others = (*ANIMALS, "one", "sleeps")
        words = [animal if rng.random() < 0.5 else rng.choice(others) for _ in "123"]
        made.append((prompt, "".join(f" {word}" for word in words[: rng.randint(1, 3)])))
    return made


@dataclass(frozen=True)
class Task:
    """The tokens of the words that prompts may name, of the end of a line, and of end-of-text."""

    words: tuple[int, ...]
    line_end: int
    eos: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, words: Sequence[str]) -> Self:
        """Words as they stand in a sentence: " cat". Raises ValueError: one is not one token."""
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in (*words, "\n")]
        for text, tokens in zip((*words, "\n"), ids, strict=True):
            if len(tokens) != 1:
                raise ValueError(f"{text!r} is {len(tokens)} tokens of this tokenizer, not one")
        *named, line_end = (tokens[0] for tokens in ids)
        return cls(tuple(named), line_end, int(tokenizer.eos_token_id))

    def score(self, prompt: Sequence[int], completion: Sequence[int]) -> float:
        """The share of the completion's tokens that are a word of the prompt; prompts are a line.

        Both as token ids, the completion with its end-of-text.
        """
        counted = [token for token in completion if token not in (self.line_end, self.eos)]
        named = [token for token in self.words if token in prompt]
        return sum(token in named for token in counted) / len(counted) if counted else 0.0

    def save_reward_model(self, directory: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        """Write a GPT-2 of three layers and one head that gives `score` at the end-of-text.

        It needs an end of line between prompt and completion, as the template has, and none in the
        prompt. Layer 1: does the token stand behind an end of line? Layer 2: is it a word that
        stands before it? Layer 3: the mean of that over the tokens that count.
        """
        from transformers import GPT2Config, GPT2ForSequenceClassification

        names = [f"word {k}" for k in range(len(self.words))]
        names += ["line end", "eos", "other", "always", "behind", "match", "share"]
        at = {name: place for place, name in enumerate(names)}
        width = len(names)
        model = GPT2ForSequenceClassification(
            GPT2Config(
                vocab_size=len(tokenizer),
                n_positions=2048,
                n_embd=2 * width,
                n_inner=1,
                n_layer=3,
                n_head=1,
                num_labels=1,
                layer_norm_epsilon=1e-12,
                attn_pdrop=0.0,
                embd_pdrop=0.0,
                resid_pdrop=0.0,
                bos_token_id=self.eos,
                eos_token_id=self.eos,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        for name, parameter in model.named_parameters():
            torch.nn.init.constant_(parameter, float("ln_" in name and name.endswith("weight")))

        # What a token is: a feature of its kind, and one that every token has. Each feature stands
        # there a second time with the other sign, so that normalisation has no mean to take away.
        kinds = dict.fromkeys(range(len(tokenizer)), "other")
        kinds |= {token: f"word {k}" for k, token in enumerate(self.words)}
        kinds |= {self.line_end: "line end", self.eos: "eos"}
        embeddings = model.transformer.wte.weight.data
        for token, kind in kinds.items():
            for name in (kind, "always"):
                embeddings[token, at[name]] = 1
                embeddings[token, at[name] + width] = -1

        def attend(
            layer: int, nats: dict[tuple[str, str], float], taken: list[str], norm: int, into: str
        ) -> None:
            """Attention by (feature of the query, of the key): write `into` the mean of `taken`.

            norm is how many features the tokens have that are attended to.
            """
            size = (norm / width) ** 0.5  # normalisation divides by it
            weight = torch.zeros(2 * width, 3, 2 * width)  # query, key, value
            for feature in at.values():
                weight[feature, 0, feature] = size
            for (asking, asked), amount in nats.items():
                weight[at[asked], 1, at[asking]] = amount * size * (2 * width) ** 0.5
            for name in taken:
                weight[at[name], 2, at[into]] = size
                weight[at[name], 2, at[into] + width] = -size
            block = model.transformer.h[layer].attn
            block.c_attn.weight.data = weight.flatten(1)
            block.c_proj.weight.data = torch.eye(2 * width) * (SMALL if into == "share" else 1)

        words = names[: len(self.words)]
        attend(0, {("always", "line end"): SHARP}, ["line end"], 2, "behind")
        before = {("always", "behind"): -SHARP, ("always", "line end"): 1.5 * SHARP}
        attend(1, before | {(word, word): SHARP for word in words}, words, 2, "match")
        counted = {("always", "always"): -2 * SHARP, ("always", "behind"): 2 * SHARP}
        counted |= {("always", name): -SHARP for name in ("line end", "eos")}
        attend(2, counted, ["match"], 4, "share")
        model.score.weight.data[0, at["share"]] = (3 / width) ** 0.5 / SMALL
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
