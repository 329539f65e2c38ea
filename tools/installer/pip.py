"""Running pip, or uv in its place: output into a log, a short account on the terminal, failures explained."""

import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tools.installer import processes, uv
from tools.installer.console import BuildError, Progress, tail

_REQUIREMENT = re.compile(r"(?:Collecting|Requirement already satisfied:) ([A-Za-z0-9._-]+)")

# What pip says, and what to do about it. The first that is found counts.
_REMEDIES = (
    ("No space left on device", "free some space, or set VLLM_CUSTOM_HOME to a folder on a larger disk"),
    ("No matching distribution found", "this index has no wheel for this Python and system: see the log"),
    ("Could not find a version", "this index has no such version for this Python and system: see the log"),
    ("Temporary failure in name resolution", "check the network, then run the same command again: it continues"),
    ("Name or service not known", "check the network, then run the same command again: it continues"),
    ("CERTIFICATE_VERIFY_FAILED", "set PIP_CERT to your company's certificate bundle"),
    ("Read timed out", "the network is slow: run the same command again, it continues"),
    ("THESE PACKAGES DO NOT MATCH THE HASHES", "run `pip cache purge`, then the same command again"),
)


@dataclass(frozen=True)
class Pip:
    """pip of one environment."""

    python: Path
    log: Path
    progress: Progress
    environ: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    # The program uv, for what it can do.
    uv: str | None = None

    def install(self, arguments: Sequence[str], what: str, total: int = 0) -> None:
        """Raises BuildError with the end of pip's output and a remedy."""
        if self.try_install(arguments, total):
            return
        text = tail(self.log, 200)
        remedy = next((fix for sign, fix in _REMEDIES if sign in text), "run the same command again: it continues")
        raise BuildError(f"pip could not install {what}:\n{tail(self.log, 12)}\n  the whole log: {self.log}", remedy)

    def with_uv(self) -> "Pip":
        """The same with uv, which is fetched where it is not there; without it where that fails."""
        program = uv.kept()
        if program is None:
            self.progress.step("fetching the installer (uv)")
            self.try_install(("--no-deps", "--upgrade", "--target", str(uv.folder()), "uv"))
            program = uv.kept()
        return replace(self, uv=program)

    def try_install(self, arguments: Sequence[str], total: int = 0) -> bool:
        """Whether it went well. Lines go to the log, pip's count of packages to the terminal."""
        if self.uv is not None and self._try_uv(self.uv, arguments):
            return True
        command = [str(self.python), "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
        command += ["--progress-bar", "off", *arguments]
        return self._run(command, self._environ(), total)

    def _try_uv(self, program: str, arguments: Sequence[str]) -> bool:
        command = uv.command(program, self.python, arguments)
        environ = uv.environment(self.python, self._environ())
        try:
            return command is not None and environ is not None and self._run(command, environ)
        except OSError as error:  # it cannot be started: pip can
            self.progress.step(f"uv cannot be used: {error.strerror}")
            return False

    def _run(self, command: Sequence[str], environ: Mapping[str, str], total: int = 0) -> bool:
        with self.log.open("w") as log:
            log.write(f"$ {' '.join(command)}\n")
            log.flush()
            with subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environ,
                # The lock on the environment ends with us, so pip must not go on alone.
                preexec_fn=processes.end_with_parent(),  # noqa: PLW1509 - prctl only, bound before the fork
            ) as process:
                try:
                    self._follow(process, log.write, total)
                except BaseException:
                    process.terminate()
                    raise
        return process.returncode == 0

    def _follow(self, process: "subprocess.Popen[str]", write: Callable[[str], object], total: int) -> None:
        assert process.stdout is not None
        seen = 0
        for line in process.stdout:
            write(line)
            match = _REQUIREMENT.match(line)
            if match:
                seen += 1
                self.progress.detail(f"{seen}/{total} {match[1]}" if total else match[1])
            elif line.startswith("Installing collected packages"):
                self.progress.detail("unpacking (a minute or two)")

    def _environ(self) -> dict[str, str]:
        # The user's PYTHONPATH would count as installed packages, and PIP_USER cannot work here.
        unwanted = ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV")
        return {key: value for key, value in self.environ.items() if key not in unwanted}
