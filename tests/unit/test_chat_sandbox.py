"""Hostile chat templates: no way to Python's internals, no endless work, no memory without end."""

from __future__ import annotations

import os
import sys
import time

import pytest

from promises import Figure
from resident import in_fresh_process
from wenlu.core.errors import WenluError
from wenlu.tokenization import sandbox
from wenlu.tokenization.chat import Message, render_chat

SECONDS, MEBIBYTES = 1.0, 256  # of processor time, and resident: what T25 promises
WATCHED = ("open", "os.", "subprocess.", "socket.", "import", "shutil.", "ctypes.", "urllib.", "pty.", "glob.")

# Ways to Python's internals, each put into several places that evaluate it.
INTERNALS = [
    "''.__class__",
    "''['__class__']",
    "''.__class__.__mro__[1].__subclasses__()",
    "[].__class__.__base__.__subclasses__()",
    "messages.__class__",
    "messages[0].get.__self__.__class__",
    "messages[0].content.__len__()",
    "messages | map(attribute='__class__') | list",
    "messages | selectattr('__class__') | list",
    "messages | sort(attribute='__class__')",
    "messages | sum(attribute='__class__')",
    "messages | join(',', attribute='__class__')",
    "messages | max(attribute='__class__')",
    "messages | attr('__class__')",
    "'{0.__class__}'.format(messages)",
    "'{m.__class__.__mro__}'.format(m=messages)",
    "'{0[__class__]}'.format(range)",
    "'{m.__class__}'.format_map({'m': messages})",
    "range.__init__",
    "dict.__init__.__globals__",
    "dict.fromkeys.__self__",
    "namespace.__init__.__globals__",
    "namespace(a=1).__dict__",
    "namespace(a=1)._Namespace__attrs",
    "namespace(__class__=1)",
    "raise_exception.__globals__",
    "strftime_now.__globals__['datetime']",
    "strftime_now.__code__",
    "self.__init__.__globals__",
    "self._TemplateReference__context",
    "self._TemplateReference__context.environment",
    "cycler.__init__.__globals__.os.system('touch escaped')",
    "joiner.__init__.__globals__",
    "lipsum.__globals__['os'].popen('touch escaped').read()",
    "url_for.__globals__",
    "get_flashed_messages.__globals__",
    "request.application.__globals__",
    "config.__class__.__init__.__globals__",
    "undefined_name.__class__.__init__.__globals__['sys']",
    "(undefined_name).__init__.__globals__",
    "messages.append('x')",
    "messages.clear()",
    "messages[0].update({'role': 'system'})",
    "messages[0].pop('role')",
    "''.encode('utf-8')",
    "'a'.translate({97: 'b' * 100})",
    "(1).to_bytes(10)",
    "().__getattribute__('__class__')",
    "messages | string | attr('format')",
    "m.__globals__",
    "m._func.__globals__",
    "m.name.__class__",
    "caller.__globals__",
    "loop.__class__",
    "loop._iterable.gi_frame.f_globals",
    "(messages | map('upper')).gi_frame.f_back.f_globals",
    "(messages | map('upper')).gi_code",
    "eval('1')",
    "__import__('os')",
    "open('escaped', 'w')",
    "tojson.__globals__",
    "messages | random",
    "messages | pprint",
    "messages | xmlattr",
]
PLACES = (
    "{% macro m() %}{% endmacro %}{{ X }}",
    "{% macro m() %}{% endmacro %}{% for a in messages %}{% set b = X %}{{ b }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{% if (X) is defined %}{{ (X) | string }}{{ [X] }}{% endif %}",
)

DOUBLE = "{% set ns = namespace(x=START) %}{% for i in range(64) %}{% set ns.x = X %}{% endfor %}{{ ns.x | length }}"
MANY = "{% for i in range(99999) %}"
END = "{% endfor %}"
LONG = "{% set s = messages[0].content * 8 %}"  # of a message that is long itself: the bounds grow with it
BOMBS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "nested loops over one range": "{% set r = range(99999) %}{% for a in r %}{% for b in r %}" + END + END,
    "nested loops with output": "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}",
    "loop of long output": "{% for i in range(99999) %}" + "y" * 50_000 + "{% endfor %}",
    "macro of long output": "{% macro f() %}{% for i in range(99999) %}"
    + "y" * 50_000
    + "{% endfor %}{% endmacro %}{{ f() }}",
    "recursive loop": "{% for x in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
    "recursive loop, wide": MANY.replace("%}", "recursive %}")
    + "{% if loop.depth < 4 %}{% set y = loop(range(99999)) %}{% endif %}"
    + END,
    "filtered loop": "{% for x in range(99999) if x in (range(99999) | list) %}{% endfor %}",
    "repeat": "{{ 'a' * 10 ** 9 }}",
    "repeat a list": "{{ ([0] * 10 ** 9) | length }}",
    "repeat, turned round": "{{ 10 ** 9 * 'a' }}",
    "constant in a condition": "{% if 'a' * 10 ** 10 == 'b' %}{% endif %}",
    "double by ~": DOUBLE.replace("START", "'a'").replace("X", "ns.x ~ ns.x"),
    "double by +": DOUBLE.replace("START", "'a'").replace("X", "ns.x + ns.x"),
    "double a list": DOUBLE.replace("START", "[1]").replace("X", "ns.x + ns.x"),
    "double by list": DOUBLE.replace("START", "[1]").replace("X", "[ns.x, ns.x]"),
    "double by tuple": DOUBLE.replace("START", "(1,)").replace("X", "(ns.x, ns.x)"),
    "double by dict": DOUBLE.replace("START", "{}").replace("X", "{1: ns.x, 2: ns.x}"),
    "double by call": DOUBLE.replace("START", "{}").replace("X", "dict(a=ns.x, b=ns.x)"),
    "double by join": DOUBLE.replace("START", "'a'").replace("X", "ns.x.join('bbb')"),
    "double by filter": DOUBLE.replace("START", "'a'").replace("X", "['', '', ''] | join(ns.x + 'a')"),
    "double by replace": DOUBLE.replace("START", "'a'").replace("X", "ns.x.replace('a', 'aa')"),
    "double by replace filter": DOUBLE.replace("START", "'a'").replace("X", "ns.x | replace('a', 'aa')"),
    "double by format": DOUBLE.replace("START", "'a'").replace("X", "'{0}{0}'.format(ns.x)"),
    "double by percent": DOUBLE.replace("START", "'a'").replace("X", "'%s%s' % (ns.x, ns.x)"),
    "double by tojson": DOUBLE.replace("START", "'\"'").replace("X", "ns.x | tojson"),
    "double by block": "{% set ns = namespace(x='a') %}"
    + MANY
    + "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"
    + END,
    "double by macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(64) }}",
    "endless macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "endless block": "{% block a %}{{ self.a() }}{% endblock %}",
    "endless caller": "{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}",
    "many slices": "{% set s = 'a' * 90000 %}" + "".join(f"{{% set s{n} = s[:-{n}] %}}" for n in range(1, 1000)),
    "quadratic sum": "{{ ([[1]] * 90000) | sum(start=[]) | length }}",
    "power": "{{ 9 ** 9 ** 9 }}{{ 10 ** (10 ** 9) }}",
    "growing number": DOUBLE.replace("START", "3").replace("X", "ns.x * ns.x").replace("| length", ""),
    "number from hexadecimal": "{{ ('f' * 900000) | int(base=16) % 7 }}",
    "wide percent": "{{ '%1000000000d' % 1 }}",
    "wide percent, given": "{{ '%*d' % (10 ** 9, 1) }}",
    "wide format": "{{ '{:1000000000}'.format(1) }}",
    "wide format, given": "{{ '{:{}}'.format(1, 10 ** 9) }}",
    "wide percent behind a key": "{{ '%(a)900000000s' % {'a': 1} }}",
    "wide format behind brackets": "{{ '{0[}]:>900000000}'.format({'}': 1}) }}",
    "wide format behind braces": "{{ '{0[{]:>900000000}'.format({'{': 1}) }}",
    "wide filter behind a key": "{{ '%(a%s)900000000s' | format(**{'a%s': 1}) }}",
    "own pattern of percents": "{{ ('%(' * 150000) % {'a': 1} }}",
    "wide filter": "{{ '%1000000000d' | format(1) }}",
    "many fields": LONG + "{{ ('{0}' * 9000).format(s) }}",
    "wide indent": "{{ 'a\nb' | indent(10 ** 9) }}",
    "wide json": "{{ messages | tojson(indent=10 ** 9) }}",
    "deep json": "{% set ns = namespace(x=[]) %}" + MANY + "{% set ns.x = [ns.x] %}" + END + "{{ ns.x | tojson }}",
    "wide time": "{{ strftime_now('%c' * 90000) }}",
    "round": "{{ 5 | round(-1000000) }}{{ 2.5 | round(10000000, 'floor') }}",
    "long range": "{{ range(10 ** 12) | list | length }}",
    "search backwards": LONG + "{{ s.rfind('ab' + s[:200000]) }}" * 9,
    "split backwards": LONG + "{{ s.rsplit('ab' + s[:200000]) | length }}" * 9,
    "strip": LONG + "{% set t = '字' * 200000 + 'a' %}" + "{{ s.strip(t) | length }}" * 9,
    "trim": LONG + "{% set t = '字' * 200000 + 'a' %}" + "{{ s | trim(t) | length }}" * 9,
    "attributes": "{{ ('a,' * 90000).split(',') | selectattr('x') | list | length }}" * 9,
    "rejects": "{{ range(99999) | reject('in', range(99999) | map('string') | list) | list }}",
    "equal numbers": "{{ range(0, 99999 * 2305843009213693951, 2305843009213693951) | unique | list | length }}",
    "own pattern": "{{ ('{' + ':' * 150000).format(1) }}",
    "compare": LONG + MANY + "{% if s == s ~ i %}{% endif %}" + END,
    "long template": "{{a}}" * 200_000,
    "many expressions": "{{a}}" * 13_000,
    "many statements": "{% if a %}" * 3_000 + "{% endif %}" * 3_000,
    "deep parentheses": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "deep sum": "{{ " + "1+" * 30_000 + "1 }}",
    "deep filters": "{{ a" + "|trim" * 13_000 + " }}",
    "deep attributes": "{{ a" + ".b" * 30_000 + " }}",
    "deep signs": "{{ " + "-" * 60_000 + "1 }}",
    "deep loops": "{% for a in messages %}" * 30 + "{% endfor %}" * 30,
    "nested lists": "{{ " + "[" * 30_000 + "]" * 30_000 + " }}",
}


def outcome(template: str) -> str:
    """The id of our error, or what was rendered."""
    said = "a" * 50_000 if template.startswith(LONG) else "hi"
    try:
        return "rendered: " + render_chat(template, [Message("user", said)], special_tokens={})
    except WenluError as error:
        assert str(error)
        return error.id


def attack(names: list[str]) -> list[tuple[str, float, str]]:
    """Each bomb with the processor's seconds that it took and what came of it."""
    done = []
    for name in names:
        started = time.process_time()
        result = outcome(BOMBS[name])
        done.append((name, time.process_time() - started, result[:100]))
    return done


def inject() -> tuple[int, list[str], list[str]]:
    """How many payloads ran, what they rendered that is not empty, and what was tried outside the template."""
    seen: list[str] = []
    for harmless in ("{{ 1 / 0 }}", "{{ nothing.at.all }}", "{{ '\\n' }}"):  # what Python loads once is loaded now
        outcome(harmless)
    watching = False

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event.startswith(WATCHED):
            seen.append(f"{event} {arguments!r:.100}")

    sys.addaudithook(hook)
    rendered = []
    for number, payload in enumerate(payloads := [place.replace("X", text) for text in INTERNALS for place in PLACES]):
        watching = True
        result = outcome(payload)
        watching = False
        if result.startswith("rendered: ") and result.removeprefix("rendered: ").strip():
            rendered.append(f"{payloads[number]} -> {result}")
    if os.path.exists("escaped"):  # noqa: PTH110
        seen.append("a file was made")
    return len(payloads), rendered, seen


@pytest.mark.promise("T25")
def test_no_template_reaches_the_internals_of_python(figure: Figure) -> None:
    result, _ = in_fresh_process(inject)
    number, rendered, seen = result  # type: ignore[misc]
    assert [line for line in rendered if not line.endswith("-> rendered: [Undefined]")] == []
    assert seen == []
    figure(f"{number} payloads: 0 reached Python's internals, 0 files, processes or imports")


@pytest.mark.promise("T25")
def test_no_template_works_or_grows_without_end(figure: Figure) -> None:
    result, peak = in_fresh_process(attack, list(BOMBS))
    assert [(name, id) for name, _, id in result if id not in ("chat.template_limits", "chat.template_broken")] == []  # type: ignore[attr-defined]
    slowest = max(result, key=lambda one: one[1])  # type: ignore[call-overload]
    assert slowest[1] <= SECONDS, slowest
    assert peak <= MEBIBYTES
    figure(f"{len(BOMBS)} bombs: stopped after {slowest[1]:.2f} s at most ({slowest[0]}), {peak:.0f} MiB resident")


def test_formats_that_are_not_wide_are_rendered() -> None:
    template = "{{ '%s, 2024' | format('a') }} {{ '{{{:>5}}} {} 2024'.format('b', 3) }} {{ '%(k)03d' | format(k=7) }}"
    assert outcome(template) == "rendered: a, 2024 {    b} 3 2024 007"


def test_the_bounds_are_of_one_rendering() -> None:
    """A compiled template is used again and again; what one rendering spent, the next has."""
    template = sandbox.compile_template("{% for i in range(20000) %}{{ i }}{% endfor %}")
    sizes = {len(sandbox.render(template, {})) for _ in range(5)}
    assert sizes == {88890}
