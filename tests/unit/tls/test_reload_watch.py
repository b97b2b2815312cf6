"""
How changes of files are found.
"""

import os

from twisted.trial.unittest import SynchronousTestCase

from echod.tls.reload import FileWatcher


class FileWatcherTests(SynchronousTestCase):
    """
    Two files that belong together.
    """

    def setUp(self):
        self.paths = [self.mktemp(), self.mktemp()]
        for path in self.paths:
            self.replace(path, b"old")
        self.watch = FileWatcher(self.paths)
        self.watch.note()

    def replace(self, path, content):
        """
        Put a new file in the place of one.
        """
        new = self.mktemp()
        with open(new, "wb") as file:
            file.write(content)
        os.replace(new, path)

    def checks(self, number):
        return [self.watch.has_changed() for _ in range(number)]

    def test_unchanged(self):
        """
        As long as nothing happens, nothing has changed.
        """
        self.assertEqual(self.checks(3), [False] * 3)

    def test_content(self):
        """
        New content is reported once, after two checks have seen it.
        """
        self.replace(self.paths[0], b"new")
        self.assertEqual(self.checks(4), [False, True, False, False])

    def test_in_place(self):
        """
        A file that is written to counts like one that is replaced.
        """
        with open(self.paths[1], "ab") as file:
            file.write(b"more")
        self.assertEqual(self.checks(3), [False, True, False])

    def test_several(self):
        """
        A program that replaces several files, one after the other, has time for it.
        """
        self.replace(self.paths[0], b"new")
        self.assertEqual(self.checks(1), [False])
        self.replace(self.paths[1], b"new")
        self.assertEqual(self.checks(3), [False, True, False])

    def test_same_content(self):
        """
        A file that is touched, or replaced by an equal one, has not changed.
        """
        os.utime(self.paths[0], (1, 1))
        self.replace(self.paths[1], b"old")
        self.assertEqual(self.checks(3), [False] * 3)

    def test_noted(self):
        """
        After C{note} the files count as unchanged.
        """
        self.replace(self.paths[0], b"new")
        self.watch.note()
        self.assertEqual(self.checks(3), [False] * 3)

    def test_gone(self):
        """
        A file that disappears, and one that comes back different, have changed.
        """
        os.unlink(self.paths[0])
        self.assertEqual(self.checks(3), [False, True, False])
        self.replace(self.paths[0], b"new")
        self.assertEqual(self.checks(3), [False, True, False])

    def test_unreadable(self):
        """
        A directory, a device or a file without permission has no content.
        """
        os.unlink(self.paths[0])
        os.mkdir(self.paths[0])
        self.assertEqual(self.checks(3), [False, True, False])
        os.rmdir(self.paths[0])
        os.symlink("/proc/self/mem", self.paths[0])
        self.assertEqual(self.checks(3), [False] * 3)

    def test_symbolic_links(self):
        """
        A change of any symbolic link in the path is seen, as Kubernetes makes it.
        """
        root = self.mktemp()
        for version in ("1", "2"):
            os.makedirs(os.path.join(root, version))
            with open(os.path.join(root, version, "pem"), "w") as file:
                file.write(version)
        link, turned = os.path.join(root, "..data"), os.path.join(root, "turned")
        os.symlink("1", link)
        os.symlink("..data/pem", os.path.join(root, "pem"))
        self.watch = FileWatcher([os.path.join(root, "pem")])
        self.watch.note()
        os.symlink("2", turned)
        os.replace(turned, link)
        self.assertEqual(self.checks(3), [False, True, False])
