"""
The key log: a file that gets the secrets of every connection, for Wireshark and its kin
(SSLKEYLOGFILE).

Invariant: its file is for its owner only, and nothing that befalls it reaches
a connection.
"""

import os

from twisted.logger import Logger

log = Logger(namespace="echod.tls")


class KeyLog:
    """
    A key log's file.

    @ivar created: whether L{open} made the file.
    """

    created = False
    _descriptor = -1
    _full = False

    def __init__(self, path: str):
        self.path = path

    def open(self) -> None:
        """
        Open the file, to append to it; with mode 0600 if it is a new one.

        @raise OSError: when that cannot be done.
        """
        # Without O_NONBLOCK a pipe that nobody reads would stop the daemon.
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self.path, flags)
        except FileNotFoundError:
            descriptor = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            self.created = True
        self.close()
        self._descriptor = descriptor

    def reopen(self) -> None:
        """
        Open it again, after it has been moved away; if that fails, the old file goes on.
        """
        try:
            self.open()
        except OSError as error:
            log.error(
                "cannot reopen --tls-keylog {path}: {reason}; the old file goes on",
                event="keylog-reopen-failed",
                path=self.path,
                reason=error.strerror,
            )

    def undo(self) -> None:
        """
        Close it, and leave no file behind that was not there before.
        """
        self.close()
        if self.created:
            os.unlink(self.path)

    def close(self) -> None:
        """
        Close it.
        """
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def warn(self) -> None:
        """
        Say what it means that there is one.
        """
        log.warn(
            "--tls-keylog: the secrets of EVERY TLS connection go to {path}; whoever reads it "
            "can read what they carry. For tests only!",
            event="keylog-enabled",
            path=self.path,
        )
        if os.fstat(self._descriptor).st_mode & 0o077:
            log.warn(
                "{path} is open to others than its owner; chmod 600 it",
                event="keylog-exposed",
                path=self.path,
            )

    def write(self, line: bytes) -> None:
        """
        Append a line.
        """
        try:
            os.write(self._descriptor, line + b"\n")
        except OSError as error:
            if not self._full:
                log.warn(
                    "cannot write to --tls-keylog {path}: {reason}",
                    event="keylog-write-failed",
                    path=self.path,
                    reason=error.strerror,
                )
            self._full = True
        else:
            self._full = False
