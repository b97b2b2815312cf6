"""
Images and containers without a container engine: the instructions of a Dockerfile run in
namespaces(7) on overlayfs over this machine's root.  Its Python takes the place of the base
image's.

Invariant: each instruction is carried out, or is known to need nothing; an unknown one is an
error.
"""

import atexit
import fnmatch
import functools
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import SkipTest

from tests.support import needs
from tests.support.daemons import Process, wait_until
from tests.support.shared import ROOT, shared

BUILD_SECONDS = 300.0

MOUNT = 'mount -t overlay overlay -o "$1" "$2" && mount --rbind /dev "$2/dev"'
"""Mounts a root, given the options of overlayfs."""

BUILD = MOUNT + ' && mount --rbind /proc "$2/proc" && shift && exec chroot "$@"'

BUSY = """
import socket, sys
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
client.settimeout(0.1)
print("busy", flush=True)
while True:
    try:
        client.send(bytes(65536))
    except TimeoutError:
        pass
    except ConnectionError:
        break
"""
"""A client that sends and never reads, so that a drain waits for it."""

# Private mounts end with the namespace; lo is up for connections inside of the container.
RUN = f'{MOUNT} && mount -t proc proc "$2/proc" && ip link set lo up'

BIND = ' && mount --bind {} "$2"{} && mount -o remount,bind,ro "$2"{}'

CHROOT = ' && shift && exec chroot "$@"'

UNPRIVILEGED = (
    *("--clear-groups", "--no-new-privs"),
    *("--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"),
)
"""For setpriv(1): C{--cap-drop ALL --security-opt no-new-privileges}."""


def _can_be_done(directory: Path) -> None:
    """
    @param directory: where the layers are to be kept.
    @raise SkipTest: this user or machine lacks what a container engine needs.
    """
    for program in ("unshare", "nsenter", "setpriv", "ip"):
        needs.program(program)
    folders = [directory / name for name in ("layer", "work", "root")]
    for folder in folders:
        folder.mkdir()
    layer, work, root = folders
    options = f"lowerdir=/,upperdir={layer},workdir={work}"
    namespaces = ("--mount", "--pid", "--net", "--ipc", "--uts", "--fork")
    if subprocess.run(
        ["unshare", *namespaces, "sh", "-c", MOUNT, "sh", options, str(root)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    ).returncode:
        raise SkipTest("needs namespaces and overlayfs (CAP_SYS_ADMIN)")


@dataclass
class Stage:
    """
    One C{FROM}, and what follows.

    @ivar layer: the files that it adds to the base image.
    """

    layer: Path
    environment: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    commands: dict[str, list[str]] = field(default_factory=dict)
    user: str = "0:0"
    folder: str = "/"
    stop_signal: str = "SIGTERM"


def instructions(text: str) -> list[tuple[str, str]]:
    """
    The instructions of a Dockerfile, each with its arguments.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line
    ]


def base_environment() -> dict[str, str]:
    """
    That of a Python image, with the interpreter and the pip of this environment.
    """
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    return {"PATH": path, "HOME": "/root"}


def build_environment() -> dict[str, str]:
    """
    How pip gets at packages on this machine.
    """
    return {name: value for name, value in os.environ.items() if re.match("PIP_|https?_", name)}


class Image:
    """
    What a Dockerfile makes of a context.
    """

    def __init__(self, dockerfile: Path, context: Path, directory: Path):
        """
        @param directory: where the layers are kept.
        """
        _can_be_done(directory)
        self._dockerfile = dockerfile
        self._context = context
        self._directory = directory
        self._stages: dict[str, Stage] = {}
        self._arguments: dict[str, str] = {}

    def build(self) -> Stage:
        """
        Carry out the instructions.  What C{RUN} needs to know to get at packages is not
        part of what is built.

        @return: the last stage.
        @raise SkipTest: there is no package index.
        """
        needs.package_index()
        stage: Stage | None = None
        for instruction, arguments in instructions(self._dockerfile.read_text()):
            if stage is None and instruction == "ARG":
                name, _, value = arguments.partition("=")
                self._arguments[name] = value
            elif instruction == "FROM":
                stage = self._from(arguments)
            else:
                assert stage is not None
                self._carry_out(stage, instruction, arguments)
        assert stage is not None
        return stage

    def _from(self, arguments: str) -> Stage:
        base, _, name = arguments.partition(" AS ")
        base = _expand(base, self._arguments)
        if not re.fullmatch(r"python:3\.\d+-slim", base):
            raise AssertionError(f"{base} is not an image that this machine can stand for")
        stage = Stage(self._directory / f"layer-{len(self._stages)}")
        stage.layer.mkdir(parents=True)
        stage.layer.chmod(0o755)
        stage.environment = base_environment()
        self._open_the_way(stage)
        self._stages[name] = stage
        return stage

    def _open_the_way(self, stage: Stage) -> None:
        # In an image, any user may run the interpreter; here it may lie in root's folder.
        for folder in reversed(Path(sysconfig.get_config_var("BINDIR")).parents):
            if not folder.stat().st_mode & 0o001:
                self._run(stage, ["chmod", "o+x", str(folder)])

    def _carry_out(self, stage: Stage, instruction: str, arguments: str) -> None:
        match instruction:
            case "WORKDIR":
                stage.folder = arguments
                (stage.layer / arguments.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "COPY":
                self._copy(stage, shlex.split(arguments))
            case "RUN":
                self._run(stage, command_of(arguments))
            case "ENV":
                for each in shlex.split(arguments):
                    name, _, value = each.partition("=")
                    stage.environment[name] = _expand(value, stage.environment)
            case "LABEL":
                stage.labels |= dict(each.split("=", 1) for each in shlex.split(arguments))
            case "USER":
                stage.user = arguments
            case "STOPSIGNAL":
                stage.stop_signal = arguments
            case "ENTRYPOINT" | "CMD":
                stage.commands[instruction] = command_of(arguments)
            case "HEALTHCHECK":
                stage.commands[instruction] = command_of(arguments.partition(" CMD ")[2])
            case "EXPOSE":
                pass
            case _:
                raise AssertionError(f"{instruction} is not known here")

    def _copy(self, stage: Stage, arguments: Sequence[str]) -> None:
        *sources, to = arguments
        taken = self._context
        if sources[0].startswith("--from="):
            taken = self._stages[sources.pop(0).removeprefix("--from=")].layer
        target = stage.layer / os.path.join(stage.folder, to).lstrip("/")
        for source in sources:
            found = taken / source.lstrip("/")
            if taken is self._context and self._ignored(source):
                raise AssertionError(f"{source} is not in the context: see .dockerignore")
            if found.is_dir():
                shutil.copytree(found, target, symlinks=True, ignore=self._ignores(taken))
            else:
                shutil.copy2(found, target / found.name)

    def _ignored(self, path: str) -> bool:
        patterns = Path(f"{self._dockerfile}.dockerignore").read_text().splitlines()
        ignored = False
        for pattern in patterns:
            wanted = pattern.startswith("!")
            plain = pattern.lstrip("!").removeprefix("**/")
            if any(fnmatch.fnmatch(part, plain) for part in (path, Path(path).name)):
                ignored = not wanted
        return ignored

    def _ignores(self, taken: Path):
        if taken is not self._context:
            return None
        patterns = Path(f"{self._dockerfile}.dockerignore").read_text().splitlines()
        return shutil.ignore_patterns(
            *(pattern.removeprefix("**/") for pattern in patterns if pattern.startswith("**/"))
        )

    def _run(self, stage: Stage, command: Sequence[str]) -> None:
        work, root = self._directory / "work", self._directory / "root"
        options = f"lowerdir=/,upperdir={stage.layer},workdir={work}"
        environment = build_environment()
        done = subprocess.run(
            [
                *("unshare", "--mount", "sh", "-c", BUILD, "sh", options, str(root)),
                *("env", "-i", f"--chdir={stage.folder}"),
                *(f"{name}={value}" for name, value in (environment | stage.environment).items()),
                *command,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
        )
        if done.returncode:
            raise AssertionError(f"{shlex.join(command)}: {done.stdout}{done.stderr}")


def command_of(text: str) -> list[str]:
    """
    A command in either of the two forms that a Dockerfile has for it.
    """
    if text.startswith("["):
        command: list[str] = json.loads(text)
        return command
    return ["/bin/sh", "-c", text]


def _expand(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values[found[1]], text)


class Container(Process):
    """
    An image that runs: its process is number 1, in namespaces of its own, without any
    capability, and can write nowhere.
    """

    def __init__(self, image: Stage, *arguments: str, mounts: Mapping[str, Path] | None = None):
        """
        @param arguments: what stands in the place of C{CMD}.
        @param mounts: folders to see in it, read-only, by where.
        """
        super().__init__()
        self._image = image
        root, work = self.directory / "root", image.layer.with_name("work")
        root.mkdir()
        options = f"ro,lowerdir=/,upperdir={image.layer},workdir={work}"
        namespaces = ("--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child")
        script = RUN
        for where, folder in (mounts or {}).items():
            (image.layer / where.lstrip("/")).mkdir(parents=True, exist_ok=True)
            script += BIND.format(*map(shlex.quote, (str(folder), where, where)))
        command = [*image.commands["ENTRYPOINT"], *(arguments or image.commands["CMD"])]
        self._command = (
            *("unshare", *namespaces, "sh", "-c", script + CHROOT, "sh", options, str(root)),
            *self._unprivileged(command),
        )

    def _unprivileged(self, command: Sequence[str]) -> list[str]:
        user, _, group = self._image.user.partition(":")
        return [
            *("setpriv", f"--reuid={user}", f"--regid={group}", *UNPRIVILEGED),
            *("env", "-i", f"--chdir={self._image.folder}"),
            *(f"{name}={value}" for name, value in self._image.environment.items()),
            *command,
        ]

    def start(self) -> None:
        """
        Start it, and wait until it listens.
        """
        super().start()
        launcher, children = self._pidfd, Path(f"/proc/{self.pid}/task/{self.pid}/children")

        def process_one() -> int:
            if not self.running():
                raise AssertionError(f"the container ended at once: {self.log}{self.stderr}")
            return int((children.read_text().split() or ["0"])[0])

        pid = wait_until(process_one, "the container")
        self._watch(pid)
        os.close(launcher)
        wait_until(lambda: not self.running() or "listening on" in self.log, "the daemon")

    def _inside(self, command: Sequence[str]) -> list[str]:
        namespaces = ("--mount", "--pid", "--net", "--ipc", "--uts", "--root")
        return ["nsenter", f"--target={self.pid}", *namespaces, *self._unprivileged(command)]

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """
        Run a command in it, as C{docker exec} does.
        """
        return subprocess.run(
            self._inside(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def wait_for_success(self, *command: str) -> None:
        """
        Run a command in it until it succeeds, as an engine repeats a health check whose time
        limit was over.

        @raise AssertionError: it does not succeed, or says something.
        """

        def succeeds() -> bool:
            done = self.execute(*command)
            if said := done.stdout + done.stderr:
                raise AssertionError(said)
            return not done.returncode

        wait_until(succeeds, shlex.join(command))

    def terminate(self) -> None:
        """
        Ask it to stop, by the signal that the image names for that.
        """
        self.signal(signal.Signals[self._image.stop_signal])

    def give_address(self, address: str) -> None:
        """
        Give it an address that is not the loopback's, as any container has.
        """
        enter = ["nsenter", f"--target={self.pid}", "--net"]
        add = ["ip", "address", "add", f"{address}/32", "dev", "lo"]
        subprocess.run([*enter, *add], check=True, timeout=60)

    @contextmanager
    def busy(self, port: int) -> Iterator[None]:
        """
        Have a client in it that takes nothing of its echo.
        """
        with subprocess.Popen(
            self._inside(["python", "-c", BUSY, str(port)]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        ) as client:
            try:
                assert client.stdout is not None
                if client.stdout.readline() != b"busy\n":
                    raise AssertionError("the client could not connect")
                yield
            finally:
                client.kill()


DOCKERFILE = ROOT / "deploy" / "Dockerfile"


@functools.cache
def image() -> Stage:
    """
    The image of echod; built once for all processes of C{trial -j}.
    """
    with shared("image") as folder:
        built = folder / "stage"
        if not built.exists():
            directory = Path(tempfile.mkdtemp(dir=folder))
            built.write_bytes(pickle.dumps(Image(DOCKERFILE, ROOT, directory).build()))
    stage: Stage = pickle.loads(built.read_bytes())
    # overlayfs does not let two processes mount the same upper layer.
    own = Path(tempfile.mkdtemp(prefix="echod-image-"))
    atexit.register(shutil.rmtree, own)
    (own / "work").mkdir()
    copied = shutil.copytree(stage.layer, own / "layer", symlinks=True, copy_function=os.link)
    return replace(stage, layer=copied)
