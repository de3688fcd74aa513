"""`editkit studio` whose edits of 16 steps go one step and wait, so that a test can kill it in the middle."""

import sys
import threading

from editkit.cli import main
from editkit.cli.studio.work import Watcher

real = Watcher.__call__


def held(self, update):
    real(self, update)
    if update.state.total == 16 and update.fraction > 0:
        threading.Event().wait(3600)


Watcher.__call__ = held
sys.argv[:1] = ["editkit", "studio"]
main()
