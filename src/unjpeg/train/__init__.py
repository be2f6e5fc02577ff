"""Training (extra ``train``): Algorithm 1 of the DAGN paper as two loops, ``encoders`` and ``dagn``.

``recipes`` says what is trained, ``data`` and ``degrade`` what it is trained on, ``export`` turns the result into the
file that ``unjpeg restore`` runs.
"""
