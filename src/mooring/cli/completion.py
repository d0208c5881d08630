"""``mooring completion``: the script by which a shell completes commands, options and their values."""

import click
from click.shell_completion import ShellComplete, get_completion_class

_PROGRAM = "mooring"
_VARIABLE = "_MOORING_COMPLETE"  # in which click expects what a shell asks


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes mooring's commands, options and values in a shell.

    \b
    Install it with one line, and open a new shell:
      bash  mooring completion bash > ~/.local/share/bash-completion/completions/mooring
      zsh   mooring completion zsh > "${fpath[1]}/_mooring"
      fish  mooring completion fish > ~/.config/fish/completions/mooring.fish

    \b
    Where bash has no package bash-completion:
      bash  echo 'eval "$(mooring completion bash)"' >> ~/.bashrc
    """  # noqa: D301 - a backspace, which tells click to keep the lines
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(context.find_root().command, {}, _PROGRAM, _VARIABLE)
    # Not the class's own: that of bash starts a bash to ask for its version.
    click.echo(ShellComplete.source(script))
