"""What the reader says when it does not read on."""


class ReaderError(Exception):
    """Why something is not read, as a sentence for whoever asked for it."""


class WrongKey(ReaderError):
    """A key, secret or passphrase does not open what it was tried on."""


class Refused(ReaderError):
    """What was asked for is not there, or its key may not be used."""


class Damaged(ReaderError):
    """Bytes are not what was written: a tag, seal or CRC differs, or a field cannot be."""


class Unsupported(ReaderError):
    """A version, suite or feature that the format page does not describe."""
