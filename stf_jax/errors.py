"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""


class UserError(Exception):
    """Bad input, told in full: the file, what was found, what was expected and the mend.

    The message is one line per finding. Command line entry points print it to standard error
    and exit with status 2; a traceback is shown for any other exception only.
    """
