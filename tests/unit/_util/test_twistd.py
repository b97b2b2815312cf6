"""
Where twistd would have the daemon live.
"""

import codecs
import errno
import os
import pwd

from twisted.trial.unittest import SynchronousTestCase

from echod._util.errors import StartupError
from echod._util.twistd import Pidfile, check_old_pidfile, preflight


class CheckWhereaboutsTests(SynchronousTestCase):
    """
    Tests for L{preflight}.
    """

    def setUp(self):
        self.folder = os.path.abspath(self.mktemp())
        os.mkdir(self.folder)
        self.file = os.path.join(self.folder, "file")
        with open(self.file, "w"):
            pass

    def complaint(self, chroot=None, rundir=".", pidfile=""):
        """
        What is said about these, C{None} if nothing.
        """
        given = {"chroot": chroot, "rundir": rundir, "pidfile": pidfile}
        try:
            preflight(given)
        except SystemExit as end:
            return end.code
        return None

    def test_good(self):
        """
        About places that are there, nothing is said.
        """
        self.assertIsNone(self.complaint())
        self.assertIsNone(self.complaint(rundir=self.folder, pidfile=f"{self.folder}/pid"))
        self.assertIsNone(self.complaint(pidfile=self.file))

    def test_twist(self):
        """
        Where twistd does not run us, it is told nothing.
        """
        self.assertIsNone(preflight(None))

    def test_not_there(self):
        """
        A place that is not there, or is no directory, is one line with the way out.
        """
        for option, value, reason, way_out in (
            ("chroot", f"{self.folder}/no", "No such file or directory", "give a directory"),
            ("rundir", f"{self.folder}/no", "No such file or directory", "give a directory"),
            ("rundir", self.file, "Not a directory", "give a directory"),
            (
                "pidfile",
                f"{self.folder}/no/pid",
                "No such file or directory",
                "give a file that can be written",
            ),
        ):
            self.assertEqual(
                self.complaint(**{option: value}),
                f"twistd: --{option} '{value}': {reason}; {way_out}",
            )

    def test_user(self):
        """
        A number that no user has is one line; that of a user, of this process, or of a group is
        nothing.
        """
        self.patch(os, "getuid", lambda: 0)
        self.patch(pwd, "getpwuid", {0: "root", 7: "echo"}.__getitem__)
        given = {"chroot": None, "rundir": ".", "pidfile": "", "gid": 4321}
        for uid in (0, 7, None):
            self.assertIsNone(preflight({**given, "uid": uid}))
        error = self.assertRaises(SystemExit, preflight, {**given, "uid": 4321})
        self.assertEqual(
            error.code,
            "twistd: --uid '4321': no user has this number; give a user of this machine",
        )

    def test_printable(self):
        """
        What the operator typed moves no cursor.
        """
        self.assertIn("'\\x1b[2J'", self.complaint(rundir="\x1b[2J"))

    def test_nothing_left(self):
        """
        No file is made for good, and one that is there keeps what it holds.
        """
        self.complaint(pidfile=f"{self.folder}/pid")
        self.assertEqual(os.listdir(self.folder), ["file"])
        with open(self.file, "w") as file:
            file.write("862")
        self.assertIsNone(self.complaint(pidfile=self.file))
        with open(self.file) as file:
            self.assertEqual(file.read(), "862")

    def make_device(self):
        """
        Put a file where a new root needs a device, which only root can make.
        """
        os.mkdir(f"{self.folder}/dev")
        with open(f"{self.folder}/dev/null", "w"):
            pass

    def test_no_device_in_a_new_root(self):
        """
        A new root without /dev/null is one line that names the path and the way to make it.
        """
        self.assertEqual(
            self.complaint(self.folder),
            f"twistd: --chroot '{self.folder}': {self.folder}/dev/null: No such file or directory; "
            "make it with mknod -m 666 PATH c 1 3",
        )

    def test_user_in_a_new_root(self):
        """
        The user has to be in the passwd(5) of a new root, where twistd looks for it again.
        """
        self.make_device()
        me = os.getuid()
        given = {"chroot": self.folder, "rundir": "/", "pidfile": "", "uid": me}
        path = f"{self.folder}/etc/passwd"
        line = (
            f"twistd: --uid '{me}': {path} does not have this user; copy its line there (passwd(5))"
        )
        self.assertEqual(self.assertRaises(SystemExit, preflight, given).code, line)
        os.mkdir(f"{self.folder}/etc")
        for content, complaint in (
            (f"\nx\nother:x:1{me}:{me}::/:\n", line),
            (f"other:x:1{me}:0::/:\nme:x:{me}:0::/:\n", None),
        ):
            with open(path, "w") as file:
                file.write(content)
            if complaint is None:
                self.assertIsNone(preflight(given))
            else:
                self.assertEqual(self.assertRaises(SystemExit, preflight, given).code, complaint)

    def test_imports_before_a_new_root(self):
        """
        The codec that getaddrinfo() uses is there before the change of the root, and is imported
        for that only.
        """
        self.make_device()
        looked_up = []
        self.patch(codecs, "lookup", looked_up.append)
        self.assertIsNone(self.complaint())
        self.assertEqual(looked_up, [])
        self.assertIsNone(self.complaint(self.folder))
        self.assertEqual(looked_up, ["idna"])

    def test_in_a_new_root(self):
        """
        Under --chroot, what is meant is inside of it.
        """
        os.mkdir(f"{self.folder}/run")
        self.make_device()
        self.assertIsNone(self.complaint(self.folder, pidfile="/run/pid"))
        self.assertIsNone(self.complaint(self.folder, "/run", "/run/pid"))
        self.assertIsNone(self.complaint(self.folder, "run"))
        self.assertIn("--rundir", self.complaint(self.folder, self.folder))
        self.assertIn("--pidfile", self.complaint(self.folder, pidfile=f"{self.folder}/pid"))


class OldPidfileTests(SynchronousTestCase):
    """
    Tests for L{check_old_pidfile}.
    """

    def check(self, content):
        """
        What is said about a pidfile with this in it, C{None} if nothing.
        """
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(content)
        try:
            return check_old_pidfile({"pidfile": path})
        except SystemExit as end:
            return end.code.replace(path, "PATH")

    def test_none(self):
        """
        Without twistd, without a pidfile, or if there is none yet, there is nothing to check.
        """
        for twistd in (None, {"pidfile": ""}, {"pidfile": self.mktemp()}):
            self.assertIsNone(check_old_pidfile(twistd))

    def test_number(self):
        """
        What twistd can read is its own to judge.
        """
        for content in (b"1", b"862\n", b" 2147483647 "):
            self.assertIsNone(self.check(content))

    def test_no_number(self):
        """
        A file without a process ID is one line.
        """
        for content, reason in (
            (b"", "is empty"),
            (b" \n", "is empty"),
            (b"rubbish", "holds no process ID"),
            (b"-1", "holds no process ID"),
            (b"2147483648", "holds no process ID"),
            (b"9" * 1000, "holds no process ID"),
            (b"\xff", "holds no process ID"),
        ):
            self.assertEqual(
                self.check(content),
                f"twistd: --pidfile 'PATH': {reason}; remove it, or give another",
            )

    def test_unreadable(self):
        """
        A file that cannot be read is one line.
        """
        folder = self.mktemp()
        os.mkdir(folder)
        error = self.assertRaises(SystemExit, check_old_pidfile, {"pidfile": folder})
        self.assertEqual(
            error.code,
            f"twistd: --pidfile '{folder}': Is a directory; give a file that can be read",
        )

    def test_no_current_directory(self):
        """
        A relative name where the current directory has been removed is one line.
        """

        def getcwd():
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")

        self.patch(os, "getcwd", getcwd)
        self.assertIsNone(check_old_pidfile({"pidfile": ""}))
        error = self.assertRaises(SystemExit, check_old_pidfile, {"pidfile": "twistd.pid"})
        self.assertEqual(
            error.code,
            "twistd: --pidfile 'twistd.pid': there is no current directory; "
            "give an absolute path, or --pidfile=",
        )


class PidfileTests(SynchronousTestCase):
    """
    What twistd removes at the end.
    """

    def setUp(self):
        self.path = self.mktemp()
        self.twistd = {"pidfile": self.path}
        self.pidfile = Pidfile(self.twistd)
        self.write()

    def write(self):
        with open(self.path, "w") as file:
            file.write("1")

    def left(self):
        """
        @return: whether twistd is to leave it.
        """
        self.pidfile.keep_foreign()
        self.assertIn(self.twistd["pidfile"], ("", self.path))
        return self.twistd["pidfile"] == ""

    def test_ours(self):
        """
        The file that it has written is twistd's to remove, also when this process may not
        read it any more.
        """
        self.pidfile.written()
        os.chmod(self.path, 0)
        self.assertFalse(self.left())

    def test_of_another(self):
        """
        Another file in its place is left alone.
        """
        self.pidfile.written()
        os.unlink(self.path)
        # It may have the same inode.
        self.write()
        self.assertTrue(self.left())

    def test_gone(self):
        """
        So is nothing at all.
        """
        self.pidfile.written()
        os.unlink(self.path)
        self.assertTrue(self.left())

    def fail(self):
        """
        Fail to start.
        """
        with self.assertRaises(StartupError), self.pidfile.removed_on_error():
            raise StartupError("no")

    def test_removed_on_error(self):
        """
        A start that fails removes the file, and leaves nothing for twistd to remove; one that
        succeeds does not.
        """
        self.pidfile.written()
        with self.pidfile.removed_on_error():
            pass
        self.assertTrue(os.path.exists(self.path))
        self.fail()
        self.assertFalse(os.path.exists(self.path))
        self.assertEqual(self.twistd["pidfile"], "")

    def test_of_another_on_error(self):
        """
        A start that fails leaves the file of another alone, and so does twistd.
        """
        self.pidfile.written()
        os.unlink(self.path)
        self.write()
        self.fail()
        self.assertTrue(os.path.exists(self.path))
        self.assertEqual(self.twistd["pidfile"], "")

    def test_not_removable(self):
        """
        A file that cannot be removed is left for twistd, which logs why.
        """
        folder = self.mktemp()
        os.mkdir(folder)
        self.twistd["pidfile"] = folder
        self.pidfile.written()
        self.fail()
        self.assertEqual(self.twistd["pidfile"], folder)

    def test_none_on_error(self):
        """
        Where twistd has written none, or there is no twistd, nothing is removed.
        """
        self.fail()
        self.assertTrue(os.path.exists(self.path))
        for twistd in ({"pidfile": ""}, None):
            self.pidfile = Pidfile(twistd)
            self.pidfile.written()
            self.fail()

    def test_none(self):
        """
        Where there is none, or no twistd, or it has not been looked at, nothing is done.
        """
        self.assertFalse(self.left())
        for twistd in ({"pidfile": ""}, None):
            pidfile = Pidfile(twistd)
            pidfile.written()
            self.assertIsNone(pidfile.keep_foreign())
