"""`editkit completion SHELL`: a completion script for the shell, which calls `editkit complete`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

from editkit.cli.console import write
from editkit.errors import EditkitError, UsageError

SCRIPTS = {
    "bash": """_editkit() {
    local IFS=$'\\n'
    COMPREPLY=( $(editkit complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null) )
}
complete -o default -F _editkit editkit
""",
    "zsh": """#compdef editkit
_editkit() {
    local -a found
    found=("${(@f)$(editkit complete -- "${(@)words[2,$CURRENT]}" 2>/dev/null)}")
    if [[ -n "$found" ]]; then compadd -- "${found[@]}"; else _files; fi
}
compdef _editkit editkit
""",
    "fish": "complete -c editkit -a '(editkit complete -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'\n",
}

WHERE = {
    "bash": "editkit completion bash >> ~/.bashrc",
    "zsh": "editkit completion zsh >> ~/.zshrc        (below the line with compinit)",
    "fish": "editkit completion fish > ~/.config/fish/completions/editkit.fish",
}


def completion_command(words: list[str]) -> int:
    """`editkit completion bash|zsh|fish`."""
    if not words or words[0] in ("-h", "--help"):
        write("usage: editkit completion bash|zsh|fish\n\nPrints a completion script for the shell:\n")
        for line in WHERE.values():
            write(f"  {line}")
        return 0
    if len(words) != 1 or words[0] not in SCRIPTS:
        raise UsageError(f"completion: one of {', '.join(SCRIPTS)} is needed, got {' '.join(words)}")
    write(SCRIPTS[words[0]].rstrip("\n"))
    return 0


def complete_command(words: list[str]) -> int:
    """`editkit complete -- WORD ...`: print the completions of the last word, one a line; none for file names."""
    words = words[1:] if words[:1] == ["--"] else words
    try:
        found = sorted(candidates(words[:-1], words[-1] if words else ""))
    except EditkitError:  # errors in earlier words are not reported here
        found = []
    if found:
        write("\n".join(found))
    return 0


def candidates(before: Sequence[str], current: str) -> list[str]:
    """Return the words that start with `current` and may follow `before`."""
    option, equals, value = current.partition("=")
    if equals and option.startswith("--"):
        return [f"{option}={word}" for word in candidates([*before, option], value)]
    return [word for word in _completions(list(before), current) if word.startswith(current)]


def _completions(before: list[str], current: str) -> Iterable[str]:
    from editkit.cli.listing import COMMANDS
    from editkit.plugin import registry

    commands = [name for name, _ in COMMANDS]
    if before[:1] == ["help"]:
        before = before[1:]
    if not before:
        return [*registry.names(), *commands, "help", "version"]
    if before[0] == "plan":
        return _completions(before[1:], current) if len(before) > 1 else registry.names()
    if before[-1] in ("with", "then"):
        return registry.names()
    if before[0] in ("batch", "grid"):
        at = next((k for k, word in enumerate(before) if word in registry.names()), None)
        return [] if at is None else _completions(before[at:], current)
    if before[0] in commands:
        return _command_completions(before)
    joints = [k for k, word in enumerate(before) if word in ("with", "then")]
    return _plugin_completions(before[joints[-1] + 1 if joints else 0], before[-1], current)


def _plugin_completions(name: str, last: str, current: str) -> Iterable[str]:
    """Return the options of a plugin and of the run, or the values of the option `last`."""
    from editkit.cli.options import HELP_ALL, flags
    from editkit.cli.settings import read
    from editkit.cli.words import options_after
    from editkit.diffusion import samplers
    from editkit.models import families
    from editkit.plugin import registry

    known = {flag: p for p in options_after(registry.load(name)) for flag in flags(p)}
    param = known.get(last)
    if param is not None and param.takes_value:
        if param.name == "model":
            models = [row.name for row in families.list_installed() if isinstance(row.kind, families.Named)]
            return ["auto", *models, *read().models]
        return [row.name for row in samplers.list_installed()] if param.name == "sampler" else param.choices
    if current.startswith("-"):
        return [flag for both in known for flag in both.split("/")] + ["--help", HELP_ALL]
    return ["with", "then"] if current else []


def _command_completions(before: Sequence[str]) -> Iterable[str]:
    """Return the options and subcommands of one of the tool's own commands."""
    import typer

    try:
        command: Any = typer.main.get_command(import_module(f"editkit.cli.{before[0].replace('-', '_')}").app)
    except (ImportError, AttributeError):
        return []
    inner = getattr(command, "commands", {})
    if inner and len(before) > 1 and before[1] in inner:
        command, inner = inner[before[1]], {}
    return [*inner, *(flag for param in command.params for flag in param.opts if flag.startswith("-"))]
