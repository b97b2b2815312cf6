"""
The echo servers of C{stock_echo.py}, each a process.
"""

import signal
import sys
from pathlib import Path

from tests.support.certificates import make_certificate
from tests.support.daemons import Process, wait_until

PROGRAM = Path(__file__).with_name("stock_echo.py")


class Stock(Process):
    """
    One of the servers of C{stock_echo.py}.
    """

    def __init__(self, kind: str, tls: bool = False):
        super().__init__()
        command = [sys.executable, str(PROGRAM), kind]
        if tls:
            made = make_certificate()
            pem = self.directory / "pem"
            pem.write_bytes(made.cert_pem + made.key_pem)
            command.append(str(pem))
        self._command = tuple(command)

    def start(self) -> None:
        super().start()
        line = wait_until(lambda: self.stdout or not self.running(), "the stock echo to listen")
        assert isinstance(line, str), self.stderr
        self._address = line.split()[2].rstrip(",")

    def address(self) -> str:
        """
        Where it listens.
        """
        return self._address

    def polite(self) -> None:
        """
        Make it do what its kind is named after.
        """
        self.signal(signal.SIGUSR1)
