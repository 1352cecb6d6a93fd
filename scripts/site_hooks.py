"""What mkdocs calls while it builds the site: three references written from the code, the README as the front page."""

from __future__ import annotations

import inspect
import re
import types
import typing
from html import escape
from pathlib import Path
from typing import Any

HOUSE = Path(__file__).parents[1]
ITEM, OTHER = re.compile(r"(?:[-*+]|\d+\.) \S"), re.compile(r"\s|[-*+] |[>|#]|\d+\. |```")
SHOWN, PARAGRAPH = re.compile(r"<(pre|code)\b.*?</\1>", re.S), re.compile(r"<p>(.*?)</p>", re.S)
STRAY = re.compile(r"^\s*(?:[-*+] \S|\d+\. \S|```|\|.*\|\s*$)", re.M)
LINK = re.compile(r"\[([^\]]*)\]\(((?!https?:|#|mailto:)[^)\s]+)\)")


def on_config(config: Any) -> Any:
    """Pages that the nav does not name go to its end: no page is lost, and a new decision needs no line there."""
    docs = HOUSE / "docs"
    named = set(re.findall(r"[\w/.-]+\.md", str(config.nav)))
    rest = sorted(str(page.relative_to(docs)) for page in docs.rglob("*.md"))
    rest = [page for page in rest if page not in named]
    decisions = [page for page in rest if page.startswith("decisions/")]
    config.nav[-1]["Inside"] += [*(page for page in rest if page not in decisions), {"Decisions": decisions}]
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    pages = {
        "index.md": front_page(),
        "reference/recipe.md": recipe_reference(),
        "reference/cli.md": cli_reference(),
        "reference/python.md": python_reference(),
    }
    for place, text in pages.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A link that leaves docs/ has no page here: its target must be in the house, and is named as a path."""
    here = HOUSE / "docs" / Path(page.file.src_uri).parent

    def inside(match: re.Match[str]) -> str:
        text, target = match.groups()
        place = (here / target.split("#")[0]).resolve()
        if not place.is_relative_to(HOUSE) or place.is_relative_to(HOUSE / "docs"):
            return match[0]
        if not place.exists():
            raise FileNotFoundError(f"{page.file.src_uri}: the link to {target} leads to no file")
        name = str(place.relative_to(HOUSE))
        return f"`{name}`" if text.strip("`") in (name, place.name) else f"{text} (`{name}`)"

    return LINK.sub(inside, lists_as_github_has_them(markdown))


def lists_as_github_has_them(markdown: str) -> str:
    """Python-Markdown asks for an empty line before a list, and for four spaces before what belongs to an item."""
    out, paragraph, item, fence = [], False, False, None
    for line in markdown.split("\n"):
        indent = len(line) - len(line.lstrip())
        if fence is None and line.strip():
            if paragraph and ITEM.match(line):
                out.append("")
            starts_block = not out or not out[-1].strip() or out[-1].startswith("#")
            item = bool(ITEM.match(line)) or (item and not (indent == 0 and starts_block))
            paragraph = (paragraph or starts_block) and not OTHER.match(line.lstrip() if item else line)
        elif fence is None:
            paragraph = False
        more = fence if fence is not None else 4 - indent if item and indent in (2, 3) else 0
        out.append(" " * more + line if line.strip() else line)
        if line.lstrip().startswith("```"):
            fence = more if fence is None else None
    return "\n".join(out)


def on_page_content(html: str, page: Any, **_: Any) -> None:
    """A list, a table or a fence that came out as plain text fails the build: its indentation is wrong."""
    for text in PARAGRAPH.findall(SHOWN.sub("", html)):
        if stray := STRAY.search(text):
            line = text[stray.start() :].strip().split("\n")[0]
            raise ValueError(f"{page.file.src_uri}: {line!r} is shown as it was typed; mend the indentation around it")


def front_page() -> str:
    """README.md, with its paths as docs/ has them."""
    text = (HOUSE / "README.md").read_text(encoding="utf-8")
    text = re.sub(r'((?:src|srcset)=")docs/', r"\1", text)
    return LINK.sub(
        lambda m: f"[{m[1]}]({m[2].removeprefix('docs/') if m[2].startswith('docs/') else '../' + m[2]})", text
    )


def recipe_reference() -> str:
    from salad.config.recipe import Recipe

    head = (
        "# Recipe reference\n\nThis page is written from the classes in `src/salad/config/` when the site is built. A "
        "recipe is a YAML file; a key that is not named here is refused, with the keys that would have been right. "
        "`--set section.key=value` sets one.\n\n"
    )
    sections = {name: field for name, field in Recipe.model_fields.items()}
    plain = {name: field for name, field in sections.items() if _section(field.annotation) is None}
    out = [head, "## Keys without a section\n\n", _keys(plain)]
    for name, field in sections.items():
        if (section := _section(field.annotation)) is not None:
            out += _section_page(name, section, field.description)
    return "".join(out)


def _section(annotation: Any) -> Any:
    """The section class that an annotation holds, if it holds one: Section, Section | None, tuple[Section, ...]."""
    from salad.config.base import Section

    for part in (annotation, *typing.get_args(annotation)):
        if inspect.isclass(part) and issubclass(part, Section):
            return part
    return None


def _section_page(name: str, section: Any, said: str) -> list[str]:
    doc = section.__doc__ if section.__doc__ and "__doc__" in vars(section) else ""
    words = "\n\n".join(filter(None, [said, inspect.cleandoc(doc)]))
    out = [f"## `{name}`\n\n{words}\n\n", _keys(section.model_fields)]
    for key, field in section.model_fields.items():
        if (inner := _section(field.annotation)) is not None:
            out += _section_page(f"{name}.{key}", inner, field.description)
    return out


def _keys(fields: dict[str, Any]) -> str:
    rows = ["| key | takes | default | what it does |", "|---|---|---|---|"]
    for key, field in fields.items():
        default = "needed" if field.is_required() else _code(_value(field.get_default(call_default_factory=True)))
        if _section(field.annotation) is not None and typing.get_origin(field.annotation) is not tuple:
            default = "needed" if field.is_required() else "see below"
        limits = ", ".join(_limit(part) for part in field.metadata if _limit(part))
        takes = "".join(filter(None, [_type(field.annotation), f" ({limits})" if limits else ""]))
        rows.append(f"| `{key}` | {_cell(takes)} | {default} | {_cell(field.description or '')} |")
    return "\n".join([*rows, "", ""])


def _limit(part: Any) -> str:
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return next((f"{word} {getattr(part, name):g}" for name, word in signs.items() if hasattr(part, name)), "")


def _type(annotation: Any) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is typing.Annotated:
        return _type(inner[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_type, inner))
    if origin is tuple:
        return (
            f"list of {_type(inner[0])}" if inner[-1] is ... else f"{len(inner)} values: {', '.join(map(_type, inner))}"
        )
    if origin is dict:
        return f"map of {_type(inner[0])} to {_type(inner[1])}"
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
    return words.get(annotation, f"section `{getattr(annotation, '__name__', annotation)}`")


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower().replace("none", "null")
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return '""' if value == "" else str(value)


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _code(text: Any) -> str:
    """Inline code that a table holds: a bar would end its cell."""
    return f"<code>{escape(str(text)).replace('|', '&#124;')}</code>"


def cli_reference() -> str:
    import typer

    from salad.cli import app

    group = typer.main.get_command(app)
    head = (
        "# Command reference\n\nThis page is written from the commands when the site is built; `salad COMMAND "
        "--help` says the same. Exit codes: 0, done; 1, something that was checked is wrong; 2, an input is wrong (the "
        "message names it); 130, interrupted.\n\n"
    )
    return head + "".join(_command(f"salad {name}", command) for name, command in group.commands.items())


def _command(name: str, command: Any) -> str:
    if hasattr(command, "commands"):
        return "".join(_command(f"{name} {inner}", one) for inner, one in command.commands.items())
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    usage = " ".join([name, *(p.metavar or p.name.upper() for p in arguments), "[OPTIONS]"])
    out = [f"## {name}\n\n```text\n{usage}\n```\n\n", f"{inspect.cleandoc(command.help or '')}\n\n"]
    rows = [(p.metavar or p.name.upper(), "", p.help or "") for p in arguments]
    for p in options:
        shown = ", ".join(p.opts) if p.is_flag else f"{p.opts[0]} {p.metavar or p.display_type(None)}"
        rows.append((shown, "" if p.is_flag or p.default in (None, "") or p.required else p.default, p.help or ""))
    if rows:
        out.append("| option | default | what it does |\n|---|---|---|\n")
        out += [f"| {_code(a)} | {_code(b) if b != '' else ''} | {_cell(c)} |\n" for a, b, c in rows]
    if command.epilog:
        out.append(f"\n```text\n{command.epilog}\n```\n")
    return "".join([*out, "\n"])


def python_reference() -> str:
    import salad

    out = [
        "# Python reference\n\nThis page is written from the docstrings when the site is built. "
        "[The library: one import](../api.md) shows the names at work.\n\n"
    ]
    for name in salad.__all__:
        if name != "__version__":
            thing = getattr(salad, name)
            out.append(f"::: {thing.__module__}.{thing.__qualname__}\n\n")
    return "".join(out)
