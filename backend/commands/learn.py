"""`strop learn`: what stands behind the replies, in a process of its own."""

from __future__ import annotations

import logging
import os

from adaptation.errors import SettingsError
from backend.metrics import forget_process, share_between_processes
from backend.server.folder_lock import lock_learning
from backend.server.learner_process import LearnerProcess, holder_name, stop_on_signals
from backend.settings import Settings, check_together

logger = logging.getLogger(__name__)


def learn(settings: Settings) -> None:
    """Learn until a signal stops it.

    Raises:
        SettingsError: The settings say that the server learns itself, or one is running that does.
        StropError: The model does not load, or the journal does not open.
    """
    if settings.learning.process != "apart":
        raise SettingsError(
            "`strop serve` sees to learning itself: set learning.process to apart, for the server "
            "and for `strop learn`."
        )
    check_together(settings)
    lock_learning(settings.data_dir, inside=False)
    share_between_processes(settings.metrics_dir, begins=False)
    process = LearnerProcess(settings, holder_name())
    stop_on_signals(process)
    process.run()
    forget_process(os.getpid())
    logger.info("stopped")
    logging.shutdown()
    os._exit(0)  # the interpreter's own way out would take torch apart for seconds
