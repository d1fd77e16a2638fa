"""What a user can mend."""


class UserError(Exception):
    """A mistake whose message says what to do: commands answer with it in the place of a traceback."""
