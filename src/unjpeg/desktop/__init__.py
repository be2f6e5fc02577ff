"""'Restore JPEG' in the menus of file managers: what ``unjpeg desktop`` puts there, takes away and does when chosen.

::

    install ─▶ menus.py: which files, with what in them ─▶ placing.py: written, recorded, taken away
    a click ─▶ unjpeg desktop restore -- FILES ─▶ selection.py ─▶ notices.py: what became of it, where it is seen

Menus hold one line each, with the absolute path of the command. All else is done here, the same for all of them.
"""

from unjpeg.desktop.menus import FILE_MANAGERS, FileManager, Places, find_program, open_places
from unjpeg.desktop.placing import Change, describe_changes, install, list_menus, remove
from unjpeg.desktop.selection import restore_selection

__all__ = [
    "FILE_MANAGERS",
    "Change",
    "FileManager",
    "Places",
    "describe_changes",
    "find_program",
    "install",
    "list_menus",
    "open_places",
    "remove",
    "restore_selection",
]
