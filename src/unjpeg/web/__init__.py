"""The page and the HTTP interface: ``unjpeg serve``. Needs the extra ``web``.

::

    browser or program ─▶ app.py ─▶ workers.py ─▶ darkroom.py, in a process of its own ─▶ Restorer
                          HTTP      queue, time    pictures held in memory

The server itself never decodes a picture: what a hostile file can bring down is one worker process, which is replaced.
"""
