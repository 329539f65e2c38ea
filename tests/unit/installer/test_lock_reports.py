"""`sbom` and `audit`: what they say about a lock."""

import argparse
import json
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

import build
from tools.installer import lock_reports, locks


@pytest.mark.parametrize("flavour", locks.FLAVOURS)
def test_a_bill_names_every_package_of_the_lock_once(flavour: str) -> None:
    bill = json.loads(json.dumps(lock_reports.bill(locks.read_pins(flavour, "3.12"))))
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert {part["name"]: part["version"] for part in bill["components"]} == locks.read_pins(flavour, "3.12")
    references = [bill["metadata"]["component"]["bom-ref"], *(part["bom-ref"] for part in bill["components"])]
    assert len(set(references)) == len(references)
    assert all(part["purl"] == f"pkg:pypi/{part['name']}@{part['version']}" for part in bill["components"])


def test_the_same_lock_gives_the_same_bill_and_another_one_another() -> None:
    first, again, other = (lock_reports.bill(locks.read_pins("cpu", python)) for python in ("3.11", "3.11", "3.12"))
    assert first == again
    assert first["serialNumber"] != other["serialNumber"]
    assert uuid.UUID(str(first["serialNumber"]).removeprefix("urn:uuid:"))


def test_it_is_written_where_it_is_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bill.json"
    assert build.main(["sbom", "--flavour", "cpu", "--output", str(file)]) == 0
    assert build.main(["sbom", "--flavour", "cpu"]) == 0
    assert capsys.readouterr().out == file.read_text()


@pytest.mark.slow
def test_an_audit_looks_at_what_is_pinned_and_hands_on_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> int:
        seen.append(command)
        if "pip_audit" not in command:
            return 0
        pins = locks.parse_pins(Path(command[-1]).read_text(), "3.11")
        assert pins == locks.read_pins("cpu", "3.11")
        return 1

    monkeypatch.setattr(lock_reports, "_run", run)
    assert lock_reports.audit(argparse.Namespace(flavour="cpu", python="3.11")) == 1
    assert [command[2] for command in seen] == ["pip", "pip_audit"]
    assert "--strict" in seen[1]
