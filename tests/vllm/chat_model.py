"""A chat model made on the spot, which has learnt one thing: to use a tool and then to say so.

Qwen2-shaped, two layers, a tokenizer trained on this repository's documents, half a minute of it.
Asked by a person, it calls ``list_connectors``; given the result of a tool, it says ``ANSWER``.
Everything between is the real path: template, engine, parser of tool calls, stream. Heads of 64
are the smallest that vLLM's attention on a CPU takes.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

TOOL = "list_connectors"
ANSWER = "Every connected source is listed above."
WINDOW = 16_384
_VOCABULARY = 2_048
_STEPS = 150
_BATCH = 8
_CALL = f'\n{{"name": "{TOOL}", "arguments": {{}}}}\n'
_MARKS = ["<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>",
          "</tool_response>"]  # fmt: skip
_WORDS = ["Every", " connected", " source", " is", " listed", " above", "."]
"""A token each, and the call's body is one: what comes next then hangs on the last token alone."""
_ROOT = Path(__file__).parents[2]

_TEMPLATE = """\
{%- macro words(content) -%}
{%- if content is string -%}{{ content }}
{%- elif content -%}{%- for part in content -%}{{ part.text }}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
<|im_start|>system
Tools, one JSON schema a line:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif -%}
{%- for message in messages -%}
{%- if message.role == "tool" -%}
<|im_start|>user
<tool_response>
{{ words(message.content) }}
</tool_response><|im_end|>
{% else -%}
<|im_start|>{{ message.role }}
{{ words(message.content) }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor -%}
<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def make_chat_model(folder: Path) -> Path:
    """Write tokenizer, weights and chat template into ``folder``."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    tokenizer = _tokenizer()
    torch.manual_seed(1)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    model = Qwen2ForCausalLM(config)
    loss = _train(model, tokenizer)
    assert loss < 0.05, f"the model has not learnt its two answers: loss {loss:.3f}"
    # The likeliest token always: what it says must not depend on luck.
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(f'{{"eos_token_id": {end}, "top_k": 1}}')
    tokenizer.save_pretrained(folder)
    return folder


def _corpus() -> list[str]:
    return [path.read_text() for path in sorted((_ROOT / "docs").glob("*.md"))]


def _tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY - len(_MARKS) - len(_WORDS) - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(_corpus(), trainer)
    # The marks of calls are text to the engine's parser, so that they are not skipped on decoding.
    raw.add_special_tokens(_MARKS[:2])
    plain = [*_MARKS[2:], _CALL, *_WORDS]
    raw.add_tokens([AddedToken(text, special=False, normalized=False) for text in plain])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<|im_end|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=_TEMPLATE,
        model_max_length=WINDOW,
    )


def _train(model: Any, tokenizer: Any) -> float:
    """Teach the two answers, behind stretches of any text; returns the last loss."""
    import torch

    rng = random.Random(1)
    texts: list[int] = tokenizer("\n".join(_corpus()), verbose=False).input_ids
    opening = tokenizer("<|im_end|>\n<|im_start|>user\n").input_ids
    ending = tokenizer("<|im_end|>\n<|im_start|>assistant\n").input_ids
    result = tokenizer("<tool_response>\n").input_ids, tokenizer("\n</tool_response>").input_ids
    call = f"<tool_call>{_CALL}</tool_call>"
    answers = [tokenizer(text + "<|im_end|>").input_ids for text in (call, ANSWER)]

    def stretch(low: int, high: int) -> list[int]:
        length = rng.randint(low, high)
        at = rng.randrange(len(texts) - length)
        return texts[at : at + length]

    def sample(case: int) -> tuple[list[int], list[int]]:
        said = stretch(1, 16)
        if case:
            said = result[0] + said + result[1]
        history = stretch(0, 80) + (
            result[0] + stretch(1, 20) + result[1] if rng.random() < 0.4 else []
        )
        prompt = history + opening + said + ending
        return prompt + answers[case], [-100] * len(prompt) + answers[case]

    torch.set_num_threads(1)  # matrices this small only wait for each other on more
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=_STEPS)
    model.train()
    loss = torch.tensor(99.0)
    for _ in range(_STEPS):
        pairs = [sample(i % 2) for i in range(_BATCH)]
        longest = max(len(ids) for ids, _ in pairs)
        ids = torch.full((_BATCH, longest), tokenizer.pad_token_id)
        labels = torch.full((_BATCH, longest), -100)
        for row, (have, want) in enumerate(pairs):
            ids[row, : len(have)] = torch.tensor(have)
            labels[row, : len(want)] = torch.tensor(want)
        # Positions are relative; beginnings anywhere in the window teach that they do not matter.
        start = rng.randrange(WINDOW - longest)
        positions = torch.arange(start, start + longest).expand(_BATCH, -1)
        mask = labels[:, 1:] != -100
        hidden = model.model(input_ids=ids, position_ids=positions).last_hidden_state[:, :-1]
        logits = model.lm_head(hidden[mask])
        loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:][mask])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    return float(loss.detach())


if __name__ == "__main__":
    make_chat_model(Path(sys.argv[1]))
