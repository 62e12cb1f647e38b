"""Chat templates as models have them, the text of each written out by hand with what counts, and a
tokenizer of single bytes that takes any of them."""

from collections.abc import Callable, Sequence
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

Turns = Sequence[dict[str, Any]]
# a piece of the text, and whether it counts where the assistant's turns do
Piece = tuple[str, bool]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_MARKED = (
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' %}{% generation %}{{- message['content'] }}"
    "{{- '<|im_end|>\n' }}{% endgeneration %}"
    "{%- else %}{{- message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# the system's turn goes before the last of the user's, as in Mistral's third tokenizer
MISTRAL = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}"
    "{% endif %}"
    "{{ bos_token }}{% for message in rest %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{% set last = rest | selectattr('role', 'equalto', 'user') | list | last == message %}"
    "{{ '[INST] ' + (system if last else '') + message['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# thoughts stay in turns after the user's last; there the last turn has a block of them in any case
QWEN3 = (
    "{%- set at = namespace(last=0) %}{%- for message in messages %}"
    "{%- if message.role == 'user' %}{%- set at.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.role == 'assistant' %}"
    "{%- set thoughts = message.reasoning_content or '' %}"
    "{%- if loop.index0 > at.last and (loop.last or thoughts) %}"
    "{{- '<think>\n' + thoughts.strip('\n') + '\n</think>\n\n' }}{%- endif %}{%- endif %}"
    "{{- message.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# closes the last turn otherwise than those before it, as Phi's does
PHI = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content']"
    " + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
BEGIN, END = "<s>", "</s>"


def tokenizer() -> Any:
    """A token a byte, but for the two that begin and end a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: place for place, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=BEGIN, eos_token=END, pad_token=END
    )


def chatml(turns: Turns) -> list[Piece]:
    """What counts of ChatML: all that follows the header of an answer."""
    pieces: list[Piece] = []
    for turn in turns:
        pieces.append((f"<|im_start|>{turn['role']}\n", False))
        pieces.append((f"{turn['content']}<|im_end|>\n", turn["role"] == "assistant"))
    return pieces


def llama3(turns: Turns) -> list[Piece]:
    """Llama 3's, which trims."""
    pieces: list[Piece] = [(BEGIN, False)]
    for turn in turns:
        pieces.append((f"<|start_header_id|>{turn['role']}<|end_header_id|>\n\n", False))
        pieces.append((f"{turn['content'].strip()}<|eot_id|>", turn["role"] == "assistant"))
    return pieces


def mistral(turns: Turns) -> list[Piece]:
    """Mistral's without a system's turn."""
    pieces: list[Piece] = [(BEGIN, False)]
    for turn in turns:
        answer = turn["role"] == "assistant"
        said = f" {turn['content']}{END}" if answer else f"[INST] {turn['content']}[/INST]"
        pieces.append((said, answer))
    return pieces


def gemma(turns: Turns) -> list[Piece]:
    """Gemma's, whose assistant is the model."""
    pieces: list[Piece] = [(BEGIN, False)]
    for turn in turns:
        answer = turn["role"] == "assistant"
        pieces.append((f"<start_of_turn>{'model' if answer else turn['role']}\n", False))
        pieces.append((f"{turn['content'].strip()}<end_of_turn>\n", answer))
    return pieces


def qwen3(turns: Turns) -> list[Piece]:
    """Qwen 3's, of turns that take turns: the last alone has its thoughts, and what was thought
    before does not count, since it is not there."""
    pieces: list[Piece] = []
    for number, turn in enumerate(turns, 1):
        answer, thoughts = turn["role"] == "assistant", turn.get("reasoning_content", "")
        pieces.append((f"<|im_start|>{turn['role']}\n", False))
        if answer and number == len(turns):
            pieces.append((f"<think>\n{thoughts}\n</think>\n\n", True))
        counts = answer and (number == len(turns) or not thoughts)
        pieces.append((f"{turn['content']}<|im_end|>\n", counts))
    return pieces


def phi(turns: Turns) -> list[Piece]:
    """Phi's, with a token that ends the whole."""
    pieces: list[Piece] = []
    for turn in turns:
        pieces.append((f"<|{turn['role']}|>\n", False))
        pieces.append((f"{turn['content']}<|end|>\n", turn["role"] == "assistant"))
    return [*pieces, (END, turns[-1]["role"] == "assistant")]


WITH_HAND_MADE: dict[str, tuple[str, Callable[[Turns], list[Piece]]]] = {
    "chatml": (CHATML, chatml),
    "chatml-marked": (CHATML_MARKED, chatml),
    "llama3": (LLAMA3, llama3),
    "mistral": (MISTRAL, mistral),
    "gemma": (GEMMA, gemma),
    "qwen3": (QWEN3, qwen3),
}
