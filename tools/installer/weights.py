"""Are the weights of a model whole? The index, the files and their headers, without reading the tensors."""

import json
from pathlib import Path
from typing import Any

_INDEX = "model.safetensors.index.json"
_OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.gguf")
_LENGTH_BYTES = 8
_LFS = b"version https://git-lfs"


class IncompleteError(Exception):
    """What is missing or damaged, and how to fix it."""

    def __init__(self, problem: str, fix: str = "download the model again") -> None:
        super().__init__(problem)
        self.fix = fix


def check(folder: Path) -> int:
    """The bytes of all weights. Raises IncompleteError."""
    if not folder.is_dir():
        raise IncompleteError(f"{folder} does not exist", "put the weights there, or correct `model` in model.json")
    if not (folder / "config.json").is_file():
        raise IncompleteError(f"{folder} has no config.json", "download the whole model, not the weights alone")
    index = folder / _INDEX
    if index.is_file():
        return _check_indexed(folder, index)
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return sum(_size(file, read_header(file)) for file in files)
    others = [path for pattern in _OTHER_FORMATS for path in folder.glob(pattern)]
    if not others:
        raise IncompleteError(f"{folder} contains no weights (*.safetensors, {', '.join(_OTHER_FORMATS)})")
    return sum(path.stat().st_size for path in others)


def _check_indexed(folder: Path, index: Path) -> int:
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise IncompleteError(f"{index} is not an index of safetensors files ({error})") from error
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise IncompleteError(f"{len(missing)} of {len(names)} files of {_INDEX} are missing: {', '.join(missing[:3])}")
    total = 0
    for name in names:
        header = read_header(folder / name)
        absent = sorted(tensor for tensor, file in weight_map.items() if file == name and tensor not in header)
        if absent:
            raise IncompleteError(f"{name} lacks {len(absent)} tensors of {_INDEX}: {', '.join(absent[:3])}")
        total += _size(folder / name, header)
    return total


def read_header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file: tensor name -> dtype, shape, data_offsets."""
    with file.open("rb") as handle:
        start = handle.read(_LENGTH_BYTES)
        if _LFS.startswith(start) and start:
            raise IncompleteError(f"{file.name} is a Git LFS pointer, not the weights", "git lfs pull")
        length = int.from_bytes(start, "little")
        if len(start) < _LENGTH_BYTES or length > file.stat().st_size - _LENGTH_BYTES:
            raise IncompleteError(f"{file.name} ends within its header")
        try:
            header: dict[str, Any] = json.loads(handle.read(length))
        except ValueError as error:
            raise IncompleteError(f"{file.name} has a header that is not JSON") from error
    header.pop("__metadata__", None)
    return header


def _size(file: Path, header: dict[str, Any]) -> int:
    """Bytes of the tensors, which the file must hold to the last one."""
    data = max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
    with file.open("rb") as handle:
        expected = _LENGTH_BYTES + int.from_bytes(handle.read(_LENGTH_BYTES), "little") + data
    actual = file.stat().st_size
    if actual != expected:
        raise IncompleteError(f"{file.name} has {actual} bytes instead of {expected}: the download is incomplete")
    return data
