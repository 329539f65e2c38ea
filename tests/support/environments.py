"""What an installed environment looks like, as far as the installer reads it."""

from pathlib import Path

from tools.installer.environment import Environment


def add_distribution(environment: Environment, name: str, version: str, finished: bool = True) -> Path:
    """What pip leaves of an installed package, as far as we look at it."""
    folder = environment.site_packages / f"{name}-{version}.dist-info"
    folder.mkdir()
    if finished:
        (folder / "INSTALLER").write_text("pip\n")
    return folder
