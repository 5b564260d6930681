"""The exceptions of the tools; the component raises Python's own.

ValueError
|-- ColumnError            the column of texts is missing or holds something else
|   `-- NotStringsError    it holds something else (also a TypeError)
`-- UnreadableFileError    a file is broken, or not what its suffix says
"""


class ColumnError(ValueError):
    """The column of texts is missing or holds something else."""


class NotStringsError(ColumnError, TypeError):
    """The column of texts holds something other than strings."""


class UnreadableFileError(ValueError):
    """A file is broken, or not what its suffix says; the message names it."""
