"""`RetryAccount`: the retry budget of one blocking client, shared by its threads."""

from __future__ import annotations

import threading
import time

from lorry.retry import BudgetAccount, RetryBudget


class RetryAccount:
    """Without a budget every retry is allowed."""

    def __init__(self, budget: RetryBudget | None) -> None:
        self._lock = threading.Lock()
        self._account = None if budget is None else BudgetAccount(budget, now=time.monotonic())

    def pay_in(self) -> None:
        """A request is sent for the first time."""
        if self._account is not None:
            with self._lock:
                self._account.deposit(time.monotonic())

    def pay_out(self) -> bool:
        """A request is to be sent again. Returns whether there was budget for it."""
        if self._account is None:
            return True
        with self._lock:
            return self._account.withdraw(time.monotonic())
