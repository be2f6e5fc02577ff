"""What happens when 'Restore JPEG' is chosen: the files that are selected, each restored into a new file beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from unjpeg.batch import Settings, plan, restore_batch
from unjpeg.console import describe_error, escape_line, explain, progress_bar
from unjpeg.desktop.menus import TITLE
from unjpeg.desktop.notices import show_notice
from unjpeg.errors import ExistsError, UnjpegError

__all__ = ["list_selected", "restore_selection"]

_VARIABLES = (
    "NAUTILUS_SCRIPT_SELECTED_FILE_PATHS",
    "NEMO_SCRIPT_SELECTED_FILE_PATHS",
    "CAJA_SCRIPT_SELECTED_FILE_PATHS",
)
_SHOWN = 5
"""Lines of what went wrong that a notice holds."""


def list_selected(arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The files, absolute: the arguments, or what Nautilus and its kin say in a variable, one on each line.

    Arguments come first, for names may hold line breaks. But they are relative there, and wrong where a search was.
    """
    if not arguments or not all(map(os.path.lexists, arguments)):
        for variable in _VARIABLES:
            lines = [line for line in environment.get(variable, "").split("\n") if line]
            if lines:
                return [os.path.abspath(line) for line in lines]
    return [os.path.abspath(one) for one in arguments]


def restore_selection(
    arguments: Sequence[str],
    settings: Settings,
    environment: Mapping[str, str] = os.environ,
    notify: Callable[..., bool] = show_notice,
) -> tuple[bool, str]:
    """Restore what is selected, beside it, and show what became of it. Results that are there already stay.

    Args:
        arguments: as the file manager passes them.
        notify: called once as ``show_notice``, whatever happens.

    Returns:
        Whether nothing failed, and what was shown.
    """
    try:
        is_fine, words = _restore(list_selected(arguments, environment), settings)
    except (UnjpegError, OSError, MemoryError, ValueError) as error:
        is_fine, words = False, escape_line(str(describe_error(error, TITLE)))
    notify(TITLE if is_fine else f"{TITLE}: not everything was restored", words, failed=not is_fine)
    return is_fine, words


def _restore(files: Sequence[str], settings: Settings) -> tuple[bool, str]:
    if not files:
        return False, "nothing is selected"
    todo = plan(files, None, None, recursive=False)
    problems = [explain(error, source) for source, error in todo.failures]
    written: list[str] = []
    there: list[str] = []
    with progress_bar(len(todo.jobs)) as progress:  # Explorer shows a window for it, a shell its line
        for outcome in restore_batch(todo.jobs, settings, skip_existing=True, progress=progress):
            if isinstance(outcome.error, ExistsError):
                there.append(str(outcome.job.target))
            elif outcome.error is not None:
                problems.append(explain(outcome.error, outcome.job.source))
            else:
                written.append(str(outcome.job.target))
    lines = [f"{os.path.basename(only)} is written" for only in written] if len(written) == 1 else []
    lines += [f"{len(written)} pictures are restored"] if len(written) > 1 else []
    lines += [f"{os.path.basename(only)} is there already" for only in there] if len(there) == 1 else []
    lines += [f"{len(there)} results are there already"] if len(there) > 1 else []
    lines += problems[:_SHOWN]
    lines += [f"and {len(problems) - _SHOWN} more failed"] if len(problems) > _SHOWN else []
    return not problems, "\n".join(map(escape_line, lines))
