"""Builds and runs images without a daemon: buildah with chroot isolation, `unshare` in place of a runtime.

What a runtime does with an image's configuration is done here by hand: its user, environment, entry point and
volumes, on a read-only root with a process namespace of its own, so that the program is process 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.fault.processes import Program, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

ROOT: Final = Path(__file__).parents[2]
BASE: Final = "localhost/base"
BUILD_TIMEOUT_S: Final = 600


class Store:
    """A folder with buildah's images, empty at first.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._driver = _driver()
        self._buildah = ("buildah", "--root", f"{folder}/root", "--runroot", f"{folder}/run")

    def make_base(self) -> str:
        """Makes the base of all images; returns what is told of it."""
        return _run(str(ROOT / ".ci" / "base-image"), str(self._folder), BASE, STORAGE_DRIVER=self._driver)

    def build(self, dockerfile: Path, name: str, **arguments: str) -> Image:
        """Builds an image over the base, from the repository's root."""
        given = {"BASE": BASE, **arguments}
        began_s = time.monotonic()
        self.buildah(
            *("bud", "-q", "--isolation", "chroot", "--pull=never", "--format", "docker"),
            *(word for name, value in given.items() for word in ("--build-arg", f"{name}={value}")),
            *("-f", str(dockerfile), "-t", name, str(ROOT)),
        )
        built_s = time.monotonic() - began_s
        container = self.buildah("from", "--pull=never", name).strip()
        root = Path(self.buildah("mount", container).strip())
        told = json.loads(self.buildah("inspect", "--type", "image", name))
        return Image(root, told["Docker"]["config"], built_s)

    def buildah(self, *words: str) -> str:
        """Runs buildah; returns what it prints."""
        return _run(*self._buildah, "--storage-driver", self._driver, *words)


def _driver() -> str:
    """The storage driver: overlay where the kernel lets us mount one, else vfs, which copies every layer."""
    with tempfile.TemporaryDirectory(dir=ROOT / "target") as folder:
        for name in ("lower", "upper", "work", "merged"):
            (Path(folder) / name).mkdir()
        options = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
        mount = ["mount", "-t", "overlay", "overlay", "-o", options, f"{folder}/merged"]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            return "vfs"
        subprocess.run(["umount", f"{folder}/merged"], check=True)
        return "overlay"


def _run(*words: str, **environ: str) -> str:
    ran = subprocess.run(
        words,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
        env={**os.environ, **environ},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@dataclass(frozen=True)
class Image:
    """An image.

    Attributes:
        root: Its files.
        config: Its configuration, as Docker writes it.
        built_s: How long the build took.
    """

    root: Path
    config: dict[str, Any]
    built_s: float

    @property
    def size_bytes(self) -> int:
        """The size of its files."""
        return int(_run("du", "-s", "-x", "--block-size=1", str(self.root)).split()[0])

    @contextlib.asynccontextmanager
    async def runs(
        self,
        *command: str,
        entrypoint: list[str] | None = None,
        environ: Mapping[str, str] | None = None,
        network: bool = True,
    ) -> AsyncIterator[Container]:
        """A container; ends with the block.

        Args:
            command: In place of the image's own.
            entrypoint: In place of the image's own.
            environ: What is added to the image's environment.
            network: Whether it has this machine's network, instead of none.
        """
        words = [*(entrypoint or self.config["Entrypoint"]), *(command or self.config.get("Cmd") or ())]
        variables = dict(each.split("=", 1) for each in self.config["Env"]) | dict(environ or {})
        with tempfile.TemporaryDirectory() as folder:
            script = self._script(Path(folder), words, variables)
            process = await asyncio.create_subprocess_exec(
                *("unshare", "--mount", "--pid", "--fork", *(() if network else ("--net",))),
                *("sh", "-c", script),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            container = Container(process)

            async def read() -> None:
                assert process.stdout is not None
                async for line in process.stdout:
                    container.lines.append(line.decode(errors="replace"))

            reading = asyncio.create_task(read())
            try:
                yield container
            finally:
                # Its program first: it has changed its user, so the kernel no longer ends it with its parent.
                with contextlib.suppress(ProcessLookupError, FileNotFoundError, IndexError):
                    container.tell(signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
                await reading

    def _script(self, folder: Path, words: list[str], variables: Mapping[str, str]) -> str:
        """What runs in the new namespaces: mounts, and then the program in place of the shell."""
        root, user = shlex.quote(str(self.root)), self.config["User"]
        owner = "uid={},gid={}".format(*user.split(":"))
        lines = ["set -e", f"mount --rbind {root} {root}", f"mount -t proc proc {root}/proc"]
        lines += [f"mount --rbind /dev {root}/dev", f"mount -t tmpfs tmpfs {root}/tmp"]
        for volume in self.config.get("Volumes") or {}:
            lines.append(f"mount -t tmpfs -o {owner},mode=0700 tmpfs {root}{volume}")
        lines.append(f"mount -o remount,bind,ro {root}")
        assignments = [f"{name}={value}" for name, value in variables.items()]
        inner = ["env", "-i", "-C", self.config["WorkingDir"], *assignments, *words]
        lines.append(f"exec chroot --userspec={user} {root} {shlex.join(inner)}")
        return "\n".join(lines)


class Container(Program):
    """A running container."""

    @property
    def pid(self) -> int:
        """The process id of its program, which is process 1 in its own namespace."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    @property
    def user(self) -> tuple[int, int]:
        """Of its program: user and group."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        return int(fields["Uid"].split()[0]), int(fields["Gid"].split()[0])

    def tell(self, number: int) -> None:
        """Sends a signal to its program, as `docker stop` does."""
        os.kill(self.pid, number)


async def output(image: Image, *words: str, network: bool = True) -> tuple[int, str]:
    """Runs words in a container instead of its entry point; the exit status and what it printed."""
    async with image.runs(entrypoint=list(words), network=network) as container:
        status = await container.ends()
        await until(
            lambda: container.process.stdout is None or container.process.stdout.at_eof(), "all is read"
        )
    return status, container.log
