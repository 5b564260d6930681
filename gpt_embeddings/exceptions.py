"""The exceptions of the tools; the component raises Python's own.

ValueError
|-- BadTextError           a text is not a string or not valid UTF-8 (also a TypeError)
|-- ColumnError            the column of texts is missing or holds something else
|   `-- NotStringsError    it holds something else (also a TypeError)
`-- UnreadableFileError    a file is broken, or not what its suffix says
"""


class BadTextError(ValueError, TypeError):
    """A text is not a string, or has no UTF-8 form; by its index among the texts a caller can name its row."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index

    def __reduce__(self) -> tuple[type["BadTextError"], tuple[int, str]]:  # workers send it to the main process
        return type(self), (self.index, str(self))


class ColumnError(ValueError):
    """The column of texts is missing or holds something else."""


class NotStringsError(ColumnError, TypeError):
    """The column of texts holds something other than strings."""


class UnreadableFileError(ValueError):
    """A file is broken, or not what its suffix says; the message names it."""
