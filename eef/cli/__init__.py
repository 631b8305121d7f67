"""The command line: one module per command. The only folder that prints, parses arguments and
exits.

`app` lists the commands and imports the module of a command when it is invoked. `options` holds the
arguments that commands share, `execution` opens and executes runs, `progress` and `status` show how
they advance, and `console` prints.
"""

from eef.cli.app import main, make_app

__all__ = ["main", "make_app"]
