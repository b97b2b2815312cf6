"""
Where twistd would have the daemon live.
"""

import os

from twisted.trial.unittest import SynchronousTestCase

from echod.whereabouts import check_whereabouts, leave_pidfile_of_another


class CheckWhereaboutsTests(SynchronousTestCase):
    """
    Tests for L{check_whereabouts}.
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
            check_whereabouts(given)
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
        self.assertIsNone(check_whereabouts(None))

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

    def test_in_a_new_root(self):
        """
        Under --chroot, what is meant is inside of it.
        """
        os.mkdir(f"{self.folder}/run")
        self.assertIsNone(self.complaint(self.folder, pidfile="/run/pid"))
        self.assertIsNone(self.complaint(self.folder, "/run", "/run/pid"))
        self.assertIsNone(self.complaint(self.folder, "run"))
        self.assertIn("--rundir", self.complaint(self.folder, self.folder))
        self.assertIn("--pidfile", self.complaint(self.folder, pidfile=f"{self.folder}/pid"))


class PidfileTests(SynchronousTestCase):
    """
    What twistd removes at the end.
    """

    def left(self, content):
        """
        @return: whether twistd is to leave a pidfile with this content.
        """
        path = self.mktemp()
        if content is not None:
            with open(path, "w") as file:
                file.write(content)
        twistd = {"pidfile": path}
        leave_pidfile_of_another(twistd)
        self.assertIn(twistd["pidfile"], ("", path))
        return twistd["pidfile"] == ""

    def test_ours(self):
        """
        A pidfile that names this process is twistd's to remove.
        """
        self.assertFalse(self.left(str(os.getpid())))

    def test_of_another(self):
        """
        One that names another process, and one that is gone, it leaves alone.
        """
        for content in ("1", str(os.getpid()) + "0", "", None):
            self.assertTrue(self.left(content))

    def test_none(self):
        """
        Where there is none, or no twistd, nothing is done.
        """
        twistd = {"pidfile": ""}
        for each in (twistd, None):
            self.assertIsNone(leave_pidfile_of_another(each))
        self.assertEqual(twistd, {"pidfile": ""})
