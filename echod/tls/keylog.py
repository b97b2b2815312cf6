"""
The key log: a file with the secrets of every TLS connection, for Wireshark and similar tools
(C{SSLKEYLOGFILE}).

Invariant: a new file is readable by its owner only, and no error of the file affects a
connection.
"""

import os

from twisted.logger import Logger

log = Logger(namespace="echod.tls")


class KeyLog:
    """
    The file of the key log.

    @ivar created: whether L{open} created the file.
    """

    created = False
    _descriptor = -1
    _full = False

    def __init__(self, path: str):
        self.path = path

    def open(self) -> None:
        """
        Open the file, to append to it; a new file gets mode 0600.

        @raise OSError: when it cannot be opened or created.
        """
        # Without O_NONBLOCK a pipe without a reader would block the daemon.
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
        Open the file again after it was renamed; if that fails, keep the old one.
        """
        try:
            self.open()
        except OSError as error:
            log.error(
                "cannot reopen --tls-keylog {path}: {reason}; the old file stays in use",
                event="keylog-reopen-failed",
                path=self.path,
                reason=error.strerror,
            )

    def undo(self) -> None:
        """
        Close the file, and remove it if L{open} created it.
        """
        self.close()
        if self.created:
            os.unlink(self.path)

    def close(self) -> None:
        """
        Close the file.
        """
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def warn(self) -> None:
        """
        Warn that there is a key log, and if other users can read it.
        """
        log.warn(
            "--tls-keylog: the secrets of EVERY TLS connection go to {path}; with this file, all "
            "their data can be decrypted. For tests only!",
            event="keylog-enabled",
            path=self.path,
        )
        if os.fstat(self._descriptor).st_mode & 0o077:
            log.warn(
                "{path} is open to users other than its owner; chmod 600 it",
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
