"""
How changes of files are noticed.
"""

import os

from twisted.trial.unittest import SynchronousTestCase

from echod.tls.reload import FileWatcher


class FileWatchTests(SynchronousTestCase):
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

    def looks(self, number):
        return [self.watch.has_changed() for _ in range(number)]

    def test_nothing_new(self):
        """
        As long as nothing happens, nothing has changed.
        """
        self.assertEqual(self.looks(3), [False] * 3)

    def test_content(self):
        """
        New content is noticed once, when it has been there for two looks.
        """
        self.replace(self.paths[0], b"new")
        self.assertEqual(self.looks(4), [False, True, False, False])

    def test_in_place(self):
        """
        A file that is written to is noticed as one that is replaced.
        """
        with open(self.paths[1], "ab") as file:
            file.write(b"more")
        self.assertEqual(self.looks(3), [False, True, False])

    def test_several(self):
        """
        Who replaces one file after the other is left time for it.
        """
        self.replace(self.paths[0], b"new")
        self.assertEqual(self.looks(1), [False])
        self.replace(self.paths[1], b"new")
        self.assertEqual(self.looks(3), [False, True, False])

    def test_same_content(self):
        """
        A file that is touched, or replaced by its like, has not changed.
        """
        os.utime(self.paths[0], (1, 1))
        self.replace(self.paths[1], b"old")
        self.assertEqual(self.looks(3), [False] * 3)

    def test_noted(self):
        """
        What has been noted in the meantime is not new any more.
        """
        self.replace(self.paths[0], b"new")
        self.watch.note()
        self.assertEqual(self.looks(3), [False] * 3)

    def test_gone(self):
        """
        A file that goes away, and one that comes back different, have changed.
        """
        os.unlink(self.paths[0])
        self.assertEqual(self.looks(3), [False, True, False])
        self.replace(self.paths[0], b"new")
        self.assertEqual(self.looks(3), [False, True, False])

    def test_unreadable(self):
        """
        What cannot be read has no content: a directory, a device, a file that is forbidden.
        """
        os.unlink(self.paths[0])
        os.mkdir(self.paths[0])
        self.assertEqual(self.looks(3), [False, True, False])
        os.rmdir(self.paths[0])
        os.symlink("/proc/self/mem", self.paths[0])
        self.assertEqual(self.looks(3), [False] * 3)

    def test_symbolic_links(self):
        """
        It is seen when a link on the way to a file is turned, as Kubernetes does it.
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
        self.assertEqual(self.looks(3), [False, True, False])
