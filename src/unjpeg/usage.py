"""How the command line is laid out: help in groups that nothing is cut from, ``unjpeg photo.jpg``, near misses.

An option's group is its ``rich_help_panel``; so is a command's. The page is drawn here all the same, without rich: its
markup takes ``[train]`` for a style, and its boxes cut what does not fit.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from unjpeg.console import WILDCARDS, complain
from unjpeg.errors import UnjpegError
from unjpeg.interrupts import raise_on_ctrl_c

__all__ = ["Command", "Commands"]

_IMPLIED = "restore"
_OTHER = "Other commands"
_OPTIONS = "Options"
_COLUMN = 24
"""Width of the column of names; after a longer one the words begin on the next line."""

_KINDS = {" int range": " N", " float range": " X", " int": " N", " float": " X", " str": " TEXT", " path": " PATH"}
"""How a value is called that the option itself calls nothing."""


class Command(TyperCommand):
    """One command: its help in groups, its epilog as it is written."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """As ever, but that a file whose name reads as options is asked about first."""
        if not ctx.resilient_parsing:
            _refuse_dashed_files(ctx, args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            _say_plainly(error)
            if getattr(error, "possibilities", None):  # of an unknown option: old names are none
                hidden = {name for param in self.params if getattr(param, "hidden", False) for name in param.opts}
                error.possibilities = [name for name in error.possibilities if name not in hidden]  # type: ignore[attr-defined]
            raise

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Arguments first, as one types them."""
        pieces = []
        for param in self.get_params(ctx):
            if param.param_type_name == "argument":
                name = _name_of(param) + ("..." if param.nargs == -1 else "")
                pieces.append(name if param.required else f"[{name}]")
        return [*pieces, "[OPTIONS]"]

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """One section per group, in the order in which their first options are declared."""
        _write_sections(formatter, _sections_of(self.get_params(ctx), ctx))

    def format_epilog(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]  # noqa: ARG002
        """Line by line: examples stay lines."""
        _write_epilog(formatter, self.epilog)


def _say_plainly(error: Any) -> None:
    """Of a wrong value: what it must be, in our words."""
    words = getattr(error, "message", None)
    if not isinstance(words, str):
        return
    words = words.removeprefix("Value error, ").partition(", unable to parse")[0]
    words = words.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    error.message = words.replace("Input should be", "must be")


class Commands(TyperGroup):
    """All commands. Where the first argument is no command but names a picture, ``restore`` is meant."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """As ever, with the command that is implied."""
        own = {name for option in self.get_params(ctx) for name in option.opts}
        if _implies_restoring(args, self.commands, own):
            args = [_IMPLIED, *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """As ever, but that Ctrl-C, which ended the program until now, ends what is at work, and has its line."""
        raise_on_ctrl_c()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            complain(UnjpegError("interrupted"))
            raise typer.Exit(130) from None

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        """As ever, but that an argument is also said to be no file: it might have been meant as one."""
        if args and args[0] not in self.commands and not ctx.resilient_parsing:
            near = get_close_matches(args[0], self.commands, 1)
            hint = f"did you mean {near[0]}?" if near else f"see {ctx.command_path} --help"
            ctx.fail(f"There is no command {args[0]!r}, and no such file; {hint}")
        return super().resolve_command(ctx, args)

    def format_usage(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Both ways."""
        formatter.write_usage(ctx.command_path, "PICTURE... [OPTIONS]")
        formatter.write_usage(ctx.command_path, "COMMAND [OPTIONS] ...", prefix=" " * len("Usage: "))

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Commands first."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            if not command.hidden:
                panel = getattr(command, "rich_help_panel", None)
                words = inspect.cleandoc(command.help or "").partition("\n\n")[0].replace("\n", " ").partition(". ")[0]
                sections.setdefault(panel if isinstance(panel, str) else _OTHER, []).append((name, words.rstrip(".")))
        _write_sections(formatter, sections, max(map(len, self.commands)))
        _write_sections(formatter, _sections_of(self.get_params(ctx), ctx))

    def format_epilog(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]  # noqa: ARG002
        """Line by line: examples stay lines."""
        _write_epilog(formatter, self.epilog)


def _implies_restoring(args: Sequence[str], commands: Iterable[str], own_options: set[str]) -> bool:
    if not args or args[0] in commands or args[0] in own_options:
        return False
    first = args[0]
    if first.startswith("-") and first != "-":  # options first: any picture behind them, and no command
        return not any(arg in commands for arg in args) and any(map(_may_be_file, args))
    return first == "-" or _may_be_file(first)


def _may_be_file(argument: str) -> bool:
    """Whether it is there, or is written as no command is: with a suffix, a folder or a wildcard."""
    if os.path.lexists(argument):
        return True
    return not argument.startswith("-") and bool({".", "/", os.sep, *WILDCARDS} & set(argument))


def _refuse_dashed_files(ctx: typer.Context, args: Sequence[str]) -> None:
    """-ocean.jpg would be ``-o cean.jpg``. Fails with how to write it."""
    for argument in args:
        if argument == "--":
            return
        if len(argument) > 2 and argument.startswith("-") and os.path.lexists(argument):
            ctx.fail(f"{argument} is a file, but reads as options: write ./{argument}")


def _sections_of(params: Iterable[Any], ctx: typer.Context) -> dict[str, list[tuple[str, str]]]:
    """By group, names and words of each that is shown. One group alone is none."""
    sections: dict[str, list[tuple[str, str]]] = {}
    params = list(params)
    grouped = len({getattr(param, "rich_help_panel", None) for param in params} - {None}) > 1
    for param in params:
        record = None if getattr(param, "hidden", False) else param.get_help_record(ctx)
        if record is None:
            continue
        if param.param_type_name == "argument":
            sections.setdefault("Arguments", []).append((_name_of(param), param.help or ""))
            continue
        words = param.help or ""
        if param.required:
            words += " Required."
        default = param.default if isinstance(param.default, list | tuple) else [param.default]
        if "[" not in words and not any(value is None or isinstance(value, bool) for value in default) and default:
            words += f" [{', '.join(map(str, default))}]"
        names = record[0].replace("<", "").replace(">", "")
        kind = next((kind for kind in _KINDS if names.endswith(kind)), "")
        names = names.removesuffix(kind) + _KINDS.get(kind, "")
        panel = getattr(param, "rich_help_panel", None) if grouped else None
        sections.setdefault(panel or _OPTIONS, []).append((names, words))
    return sections


def _name_of(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _write_sections(formatter: Any, sections: dict[str, list[tuple[str, str]]], column: int = _COLUMN) -> None:
    for title, ((name, words), *others) in sections.items():
        with formatter.section(title):
            formatter.write_dl([(name.ljust(column), words), *others], col_max=column)


def _write_epilog(formatter: Any, epilog: str | None) -> None:
    if epilog:
        formatter.write("\n" + inspect.cleandoc(epilog) + "\n")
