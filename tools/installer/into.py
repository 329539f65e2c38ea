"""`install --into`: vllm_custom into a Triton that is there already, and out of it again.

Nothing that was there is changed: folders are added, version.json lists each file in them, and uninstalling takes away
exactly these.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.installer import backends, official, target, transaction
from tools.installer.checks import Check, Status, failed, table
from tools.installer.console import BuildError
from tools.installer.paths import BACKEND_SOURCES, IS_PACKAGED, PATCHES, PROGRAM
from tools.installer.triton_tree import TritonTree

NAME = "vllm_custom"
VERSION_FILE = "version.json"
_SHOWN = 5
_SOURCES = "this package" if IS_PACKAGED else "this checkout"
Reporter = Callable[[str], object]


@dataclass(frozen=True)
class InstallOptions:
    """What the command line asks for."""

    root: Path
    python: str = "python3"
    stand_in: bool = False
    backend_from: Path | None = None
    backends: tuple[str, ...] = ()
    dry_run: bool = False


def install(options: InstallOptions, say: Reporter = print) -> int:
    """Check, then add the folders. 1, with nothing changed, where a check fails."""
    tree = TritonTree.of(options.root)
    with transaction.locked(tree.backends):
        _recover(tree, options, say)
        _refuse_foreign(tree)
        _refuse_changes(tree)
        return _install(tree, options, say)


def _install(tree: TritonTree, options: InstallOptions, say: Reporter) -> int:
    source = TritonTree.of(options.backend_from) if options.backend_from else None
    names = _wanted(tree, source, options.backends)
    interpreter = target.ask(options.python)
    base = _base(tree, source, names, stand_in=options.stand_in)
    folders = [NAME, *([target.BASE] if options.stand_in else []), *names]
    checks = [_folder_check(tree, [source.backends / name for name in names] if source else [])]
    checks += target.examine(tree, interpreter, base)
    if source:
        checks += target.examine_backends(tree, source, [name for name in names if not _ours(tree, name)])
    say(table(checks))
    if failed(checks):
        say(f"\n{failed(checks)} of {len(checks)} checks failed: nothing was changed")
        return 1
    for name in folders:
        origin = source.backends / name if source and name in names else _SOURCES
        say(f"{'would add' if options.dry_run else 'adding'} {tree.backends / name} (from {origin})")
    for name in _folders(tree):
        if name not in folders:
            doing = "would remove" if options.dry_run else "removing"
            say(f"{doing} {tree.backends / name} (of the earlier installation)")
    if not options.dry_run:
        _add(tree, source, folders, names, _facts(tree, interpreter, base))
        say(f"installed; to undo it: {PROGRAM} install --into {tree.root} --uninstall")
    return 0


def uninstall(options: InstallOptions, say: Reporter = print) -> int:
    """Take away what `install` has added. Raises BuildError where it was changed since."""
    tree = TritonTree.of(options.root)
    with transaction.locked(tree.backends):
        recovered = _recover(tree, options, say)
        manifest = _installed(tree)
        if manifest is None:
            if recovered:
                return 0
            raise BuildError(f"{tree.backends} has no {NAME} that was installed by {PROGRAM}", "check the folder")
        _refuse_changes(tree)
        if problem := transaction.problem_of(tree.backends, manifest["folders"], []):
            raise problem
        for name in manifest["folders"]:
            say(f"{'would remove' if options.dry_run else 'removing'} {tree.backends / name}")
        if not options.dry_run:
            transaction.exchange(tree.backends, manifest["folders"], [], mtime_ns=manifest["backends_mtime_ns"])
    return 0


def _recover(tree: TritonTree, options: InstallOptions, say: Reporter) -> bool:
    """Whether an earlier run was stopped in the middle, which is undone now."""
    if not transaction.is_unfinished(tree.backends):
        return False
    if options.dry_run:
        say("an earlier run was stopped in the middle: without --dry-run, what it left would be undone first")
    else:
        say("an earlier run was stopped in the middle: undoing what it left")
        transaction.recover(tree.backends)
    return True


def _folder_check(tree: TritonTree, copied: Sequence[Path]) -> Check:
    """Whether the folders can be put there."""
    problem = transaction.problem_of(tree.backends, _folders(tree), [*copied, BACKEND_SOURCES])
    if problem:
        return Check("folder", Status.FAIL, problem.problem, problem.fix)
    return Check("folder", Status.OK, f"{tree.backends} can be changed")


def _refuse_changes(tree: TritonTree) -> None:
    manifest = _installed(tree)
    changed = _changes(tree, manifest) if manifest else []
    if changed:
        listed = ", ".join(changed[:_SHOWN]) + (f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else "")
        raise BuildError(f"changed since the installation: {listed}", "put these files back, or move new ones away")


def _refuse_foreign(tree: TritonTree) -> None:
    folder = tree.backends / NAME
    if os.path.lexists(folder) and (folder.is_symlink() or _installed(tree) is None):
        what = "is a link" if folder.is_symlink() else "exists"
        raise BuildError(f"{folder} {what}, and {PROGRAM} did not install it", "move it away, or remove it by hand")


def _wanted(tree: TritonTree, source: TritonTree | None, chosen: Sequence[str]) -> list[str]:
    """The further backends to copy: those named, else all that the other installation has and this one lacks."""
    if source is None:
        if chosen:
            raise BuildError("--backends needs --backend-from", "name the installation to copy the backends from")
        return []
    if chosen:
        return list(chosen)
    have = {path.name for path in tree.backends.iterdir() if not _ours(tree, path.name)}
    found = sorted(path.name for path in source.backends.iterdir() if path.is_dir() and path.name not in have)
    found = [name for name in found if name != NAME and not name.startswith(".")]
    if not found:
        raise BuildError(f"{source.backends} has no backend that {tree.backends} lacks", "omit --backend-from")
    return found


def _base(tree: TritonTree, source: TritonTree | None, names: Sequence[str], *, stand_in: bool) -> Path:
    """The folder that vllm_custom will build on: one that is there, or one that comes along."""
    there = tree.backends / target.BASE
    if source and target.BASE in names:
        if stand_in:
            raise BuildError(f"{source.backends} brings a backend {target.BASE}", "omit --stand-in")
        return source.backends / target.BASE
    if stand_in:
        if os.path.lexists(there) and not _ours(tree, target.BASE):
            raise BuildError(f"{there} exists already", "omit --stand-in: vllm_custom builds on the existing backend")
        return BACKEND_SOURCES / target.BASE
    if _ours(tree, target.BASE):
        fix = "give --stand-in again, or --backend-from with the backend"
        raise BuildError(f"{there} came with the earlier installation, which this one replaces", fix)
    return there


def _add(
    tree: TritonTree, source: TritonTree | None, folders: Sequence[str], copied: Sequence[str], facts: dict[str, object]
) -> None:
    """All folders are made next to their places, then put there; whatever fails, an earlier installation stays."""
    earlier = _installed(tree)
    original_time = earlier["backends_mtime_ns"] if earlier else tree.backends.stat().st_mtime_ns

    def make(staging: Path) -> None:
        for name in folders:
            if source and name in copied:
                shutil.copytree(source.backends / name, staging / name, symlinks=True)
            else:
                backends.copy_source(name, staging)
        manifest = {
            **facts,
            "folders": list(folders),
            "files": {name: digest for folder in folders for name, digest in _files(staging, folder).items()},
            "backends_mtime_ns": original_time,
        }
        (staging / NAME / VERSION_FILE).write_text(json.dumps(manifest, indent=2) + "\n")

    transaction.exchange(tree.backends, _folders(tree), folders, make)


def _installed(tree: TritonTree) -> dict[str, Any] | None:
    """version.json. Raises BuildError where it cannot be what was written."""
    file = tree.backends / NAME / VERSION_FILE
    if not file.is_file():
        return None
    try:
        loaded = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        loaded = None
    if _is_manifest(loaded):
        manifest: dict[str, Any] = loaded
        return manifest
    stand_in = f"{tree.backends / target.BASE} if it came with --stand-in"
    fix = f"remove {file.parent} by hand, and {stand_in}; then install again"
    raise BuildError(f"{file} is damaged: it does not say what was installed", fix)


def _is_manifest(loaded: Any) -> bool:
    """Whether it names files, and folders below one folder."""
    if not isinstance(loaded, dict):
        return False
    folders, files, time = (loaded.get(key) for key in ("folders", "files", "backends_mtime_ns"))
    if not isinstance(folders, list) or NAME not in folders or not isinstance(files, dict):
        return False
    plain = all(isinstance(name, str) and Path(name).name == name and name not in ("", "..") for name in folders)
    return plain and isinstance(time, int)


def _folders(tree: TritonTree) -> list[str]:
    """What an earlier installation has added."""
    manifest = _installed(tree)
    return list(manifest["folders"]) if manifest else []


def _ours(tree: TritonTree, name: str) -> bool:
    """Whether an earlier installation has put this folder there."""
    return name in _folders(tree)


def _changes(tree: TritonTree, manifest: dict[str, Any]) -> list[str]:
    """Files that are not as they were installed; folders of a removal that was stopped are no change."""
    expected = manifest["files"]
    present: dict[str, str] = {}
    for name in manifest["folders"]:
        if (tree.backends / name).is_dir():
            present |= _files(tree.backends, name)
    return sorted(
        name
        for name in expected.keys() | present.keys()
        if expected.get(name) != present.get(name) and (tree.backends / name.split("/")[0]).is_dir()
    )


def _files(root: Path, folder: str) -> dict[str, str]:
    """Path relative to ``root`` -> hash, or the link's target. What Python itself writes does not count."""
    found = {}
    for path in sorted((root / folder).rglob("*")):
        name = path.relative_to(root).as_posix()
        if "__pycache__" in path.parts or name == f"{NAME}/{VERSION_FILE}":
            continue
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _facts(tree: TritonTree, interpreter: target.Interpreter, base: Path) -> dict[str, object]:
    api = tree.api_version
    return {
        "vllm_custom": own_version(),
        "base": {"release": official.release_of(base), "hash": official.hash_of(base)},
        "vllm": interpreter.vllm,
        "triton": tree.version,
        "backend_api": f"{api[0]}.{api[1]}" if api else None,
        "python": interpreter.version,
        "patches": sorted(path.stem for path in PATCHES.glob("*.py") if not path.stem.startswith("_")),
    }


def own_version() -> str:
    """As the package says it, which may need more than the standard library to be imported."""
    file = BACKEND_SOURCES / NAME / NAME / "__init__.py"
    match = re.search(r'^__version__ = "(.+)"$', file.read_text(), re.MULTILINE)
    if match is None:
        raise BuildError(f"{file.name} of {NAME} names no version")
    return match[1]
