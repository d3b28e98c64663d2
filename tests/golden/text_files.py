"""Tiny real tokenizers (byte-level BPE) and chat templates for the checkpoints that carry text."""
import os

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from weights import write_json

SPECIAL = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<think>", "</think>"]
EXTRA = {"llama": [], "glm4_moe": ["<|system|>", "<|observation|>"]}

TRAINING_TEXT = [
    "The choir sings in the hall, and the hall sings back to the choir.",
    "In the morning the singers stand in the order in which they sing.",
    "One voice starts the song; another answers; then they all sing together.",
    "What is the name of the song that the choir is singing in the hall?",
    "It is the oldest song that they know, and the one that they sing best.",
    "Hello! How are you? I'm fine, thanks. They're here and we've seen the others.",
    "1, 2, 3 and 4 make 10; 10 and 20 make 30.",
]

# Splits as published for cl100k-like vocabularies: contractions, words, up to three digits, signs, space.
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
         r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

TEMPLATES = {
    "llama": """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '<|user|>' + message['content'] | trim }}
    {%- elif message['role'] == 'assistant' %}
        {{- '<|assistant|>' + message['content'] + eos_token }}
    {%- elif message['role'] == 'system' and loop.first %}
        {{- message['content'] + '\\n' }}
    {%- else %}
        {{- raise_exception('the role ' + message['role'] + ' cannot be here') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
""",
    "glm4_moe": """\
<s>
{%- for m in messages %}
{%- if m.role == 'system' %}<|system|>
{{ m.content }}
{%- elif m.role == 'user' %}<|user|>
{{ m.content }}
{%- elif m.role == 'assistant' %}<|assistant|>
{%- if m.reasoning_content %}
{{ '\\n<think>' + m.reasoning_content.strip() + '</think>' }}
{%- endif %}
{{ m.content.split('</think>')[-1].strip() }}</s>
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>
{{- '\\n<think></think>\\n' if enable_thinking is defined and not enable_thinking else '' }}
{%- endif %}""",
}


def make_tokenizer(kind):
    vocab = {"llama": 300, "glm4_moe": 302}[kind]
    tok = Tokenizer(models.BPE())
    if kind == "llama":
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    else:
        tok.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    special = SPECIAL + EXTRA[kind]
    tok.train_from_iterator(TRAINING_TEXT, trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if kind == "llama":
        tok.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    else:
        tok.post_processor = processors.ByteLevel(trim_offsets=False)
    assert tok.get_vocab_size() == vocab, tok.get_vocab_size()
    return tok


def quiet_tokens(kind):
    """Special tokens hardly ever, bytes beyond ASCII and control bytes seldom: answers are text, with
    some ill-formed UTF-8 in it, and do not end before their limit."""
    special = {i: 0.2 for i in range(len(SPECIAL + EXTRA.get(kind, [])))}
    if kind is None:
        return special
    tok = make_tokenizer(kind)
    texts = {i: tok.decode([i]) for i in range(tok.get_vocab_size())}
    return {i: 0.55 for i, t in texts.items() if not (t.isascii() and t.isprintable())} | special


def write_text_files(kind, out):
    tok = make_tokenizer(kind)
    tok.save(os.path.join(out, "tokenizer.json"))
    special = SPECIAL + EXTRA[kind]
    config = {"added_tokens_decoder": {
                  str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False,
                           "single_word": False, "special": True} for i, t in enumerate(special)},
              "bos_token": "<s>", "eos_token": "</s>", "clean_up_tokenization_spaces": False,
              "model_max_length": 256, "tokenizer_class": "PreTrainedTokenizerFast"}
    if kind == "llama":   # one of the two places where templates are published
        config["chat_template"] = TEMPLATES[kind]
    else:
        with open(os.path.join(out, "chat_template.jinja"), "w", encoding="utf-8") as f:
            f.write(TEMPLATES[kind])
    write_json(os.path.join(out, "tokenizer_config.json"), config)
