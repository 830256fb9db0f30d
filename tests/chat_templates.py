"""Chat templates written after the public descriptions of the formats, with the features that published ones use."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken
from tokenizers import Tokenizer as LibraryTokenizer

from tiny_tokenizers import tiny
from wenlu.tokenization.chat import Message
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerKind

CHATML = """\
{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\nAnswer shortly.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""

LLAMA3 = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system = "" %}
    {%- set rest = messages %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}{{- "Tools: " ~ (tools | tojson(indent=4)) }}{%- endif %}
{{- "Year: " + strftime_now("%Y") + "\n" + system + "<|eot_id|>" }}
{%- for message in rest %}
    {{- '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\n\n' ~ message.content | trim ~ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% else %}
{% generation %}
{{ '<|assistant|>\n' + message['content'] + eos_token }}
{% endgeneration %}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""

MISTRAL = """\
{{ bos_token }}
{%- if messages[0].role == 'system' %}{% set ns = namespace(system=messages[0].content + '\n\n') %}
{%- set loop_messages = messages[1:] %}
{%- else %}{% set ns = namespace(system='') %}{% set loop_messages = messages %}{% endif %}
{%- for message in loop_messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('user and assistant must take turns') }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- ' [INST] ' ~ (ns.system if loop.last else '') ~ message.content ~ ' [/INST]' }}
    {%- else %}
        {{- ' ' ~ message.content | trim ~ eos_token }}
    {%- endif %}
{%- endfor %}
"""

FEATURES = """\
{%- macro line(role, text, end='\n') -%}
    {{ role | upper }}: {{ text.split('</think>')[-1].lstrip('\n') if '</think>' in text else text }}{{ end }}
{%- endmacro -%}
{%- set ns = namespace(last=-1, roles=[]) -%}
{%- for message in messages[::-1] if message.role == 'user' -%}
    {%- set ns.last = messages | length - loop.index0 -%}{%- break -%}
{%- endfor -%}
{%- for message in messages -%}
    {%- if message.content is not string or not message.content -%}{%- continue -%}{%- endif -%}
    {%- set ns.roles = ns.roles + [message.role] -%}
    {{- line(message.role, message.content, end=' / ' if not loop.last else '\n') -}}
{%- endfor %}
{{ ns.roles | unique | join(', ') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ messages[0] | tojson }} {{ dict(a=1, b=[1.5, none, true]) | tojson(indent=2) }} {{ ns.last // 2 }} {{ 7 % 4 * 3 }}
{% for key, value in messages[0].items() | sort -%}
    {{ '%s=%d' | format(key, value | length) }} {{ loop.cycle('odd', 'even') }} {{ '{}-{}'.format(loop.index, key) }}
{% endfor %}
{{ (messages | map(attribute='content') | join('|')).replace('\n', ' ').title() | indent(2, true) }}
{% call(x) wrapped() %}{{ x }}{% endcall %}{% set block %}[{{ messages[-1].role }}]{% endset %}{{ block * 2 }}
{{ undefined_name }}{{ undefined_name is defined }} {{ messages is sequence and messages is not mapping }}
{% for m in messages -%}
    {{ loop.revindex }}/{{ loop.length }} {{ loop.previtem.role if loop.previtem is defined else '-' }}
    {{- loop.nextitem.role if not loop.last else '.' }} {{ loop.changed(m.role) }}{% if loop.first %} first{% endif %}
{% endfor -%}
{% for part in [1, [2, [3]]] recursive %}{{ loop(part) if part is iterable else part }}{{ loop.depth }}{% endfor %}
{% for x in nothing %}never{% else %}none{% endfor %} {{ messages | map('length') | join }}{{ (messages | first).role }}
{{ namespace(a=1).a }} {{ dict([('k', 'v')]).get('k') }} {{ 'x' in messages[0] }} {{ messages | map('upper') and 'y' }}
{{ ['b', 'a', 'b'] | unique | sort(reverse=true) | join('-') }} {{ {'b': 1, 'a': 2} | dictsort }} {{ 'é' | tojson }}
{{ 'ab' | list }} {{ 'a b' | title }} {{ -7 // 2 }} {{ 7 / 2 }} {{ 1.0 * 3 }} {{ '%.2f' % 1.005 }} {{ "%s" % 'x' }}
{{ none | default('n', true) }} {{ '' | d('e', true) }} {{ [1, none] | reject('none') | list }} {{ 3 | string ~ 4 }}
[3, 1] {{ [3, 1, 2] | sort | last }} {{ [1, 2] | sum + 2 ** 3 }} {{ 2.567 | round(1) }} {{ 'a,b'.partition(',')|list }}
"""
FEATURES = "{% macro wrapped() %}<{{ caller('in') }}>{% endmacro %}" + FEATURES

TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "zephyr": ZEPHYR, "mistral": MISTRAL, "features": FEATURES}
SPECIAL_TOKENS = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def conversation(*contents: str, system: str | None = None) -> list[Message]:
    """User and assistant in turn, the user first."""
    said = [Message("assistant" if number % 2 else "user", content) for number, content in enumerate(contents)]
    return [Message("system", system), *said] if system is not None else said


def encode_marked(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text in which the strings of special tokens stand for those tokens."""
    return list(LibraryTokenizer.from_str(tokenizer.serialized).encode(text, add_special_tokens=False).ids)


CONVERSATIONS = {
    "one": conversation("What is 文炉?"),
    "system": conversation("  Hello\nthere \n", system="You are brief. "),
    "turns": conversation("你好！", "<think>hm</think>\nHi &amp; <b>hello</b>", "And then? 'quoted' \"twice\""),
    "empty": conversation("", system=""),
    "unicode": conversation("🙂 naïve\tCafé\u3000全角", "a b", "\\n {{ 1 + 1 }} {% raw %}"),
}


def save_with_template(
    directory: Path, template: str | None, *, kind: TokenizerKind = "bpe", in_its_own_file: bool = False
) -> None:
    """A Hugging Face tokenizer directory with special tokens for chat, and a template unless it is None."""
    tiny(kind).save(directory)
    path = directory / "tokenizer.json"
    library = LibraryTokenizer.from_file(str(path))
    library.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    library.save(str(path))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<|im_end|>"}
    if template is not None and in_its_own_file:
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    elif template is not None:
        config["chat_template"] = template
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
