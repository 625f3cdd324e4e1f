"""Chat templates in the manner of four model families, written for these tests.

Each has what makes its family hard: SmolLM2 adds a system message, Llama 3 trims and writes a
beginning-of-text token, Mistral refuses wrong orders and puts the system message elsewhere, Gemma
renames the assistant and trims. `CONTROL_TOKENS` are the special tokens that each needs.
"""

from __future__ import annotations

CHATML = """\
{% for message in messages %}{% if loop.first and message['role'] != 'system' %}\
{{ '<|im_start|>system\\nYou are a small test model<|im_end|>\\n' }}{% endif %}\
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

LLAMA_3 = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
    {{- message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """\
{%- set chat = namespace(system='', turns=messages) %}
{%- if messages[0]['role'] == 'system' %}
    {%- set chat.system = messages[0]['content'] + '\\n\\n' %}
    {%- set chat.turns = messages[1:] %}
{%- endif %}
{{- bos_token }}
{%- for message in chat.turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('user and assistant must take turns') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' }}
        {%- if loop.revindex0 <= 1 %}{{ chat.system }}{% endif %}
        {{- message['content'] + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'] | trim }}
        {%- generation %}{{ eos_token }}{% endgeneration %}
    {%- endif %}
{%- endfor %}
"""

GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}
{% for message in messages %}
    {% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
    {%- if loop.index > 64 %}{% break %}{% endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ '<start_of_turn>model\\n' }}
{%- endif %}
"""

TEMPLATES = {"chatml": CHATML, "llama_3": LLAMA_3, "mistral": MISTRAL, "gemma": GEMMA}
CONTROL_TOKENS = {
    "chatml": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "llama_3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "mistral": ("<s>", "</s>", "[INST]", "[/INST]"),
    "gemma": ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
}
