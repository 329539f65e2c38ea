"""What is known about NVIDIA's containers of Triton, in one table.

Versions are those of docs/introduction/compatibility.md in triton-inference-server/server. `ensemble` says whether the
vLLM container's server was built with ensembles: pull request 68 of vllm_backend added that to its build for 24.10,
after the server's issue 7632 about 24.08. The standard containers have it. `platforms` are those of the vLLM container:
pull request 8142 of the server, which is on its branch r25.04 and later ones, builds it for aarch64 too.
"""

from dataclasses import dataclass

IMAGE = "nvcr.io/nvidia/tritonserver"
# python_backend's pull request 384 moved to a pybind11 for numpy 2; the release notes up to 24.11 warn of numpy 2.
NUMPY2_TRITON = "2.53"


@dataclass(frozen=True)
class Container:
    """One release, as tagged YY.MM."""

    release: str
    triton: str
    vllm: str
    python: str
    ensemble: bool = True
    platforms: tuple[str, ...] = ("x86_64", "aarch64")

    @property
    def vllm_image(self) -> str:
        return f"{IMAGE}:{self.release}-vllm-python-py3"

    @property
    def standard_image(self) -> str:
        return f"{IMAGE}:{self.release}-py3"


_X86 = ("x86_64",)
CONTAINERS = {
    container.release: container
    for container in (
        Container("24.08", "2.49.0", "0.5.0.post1", "3.10", ensemble=False, platforms=_X86),
        Container("24.09", "2.50.0", "0.5.3.post1", "3.10", ensemble=False, platforms=_X86),
        Container("24.10", "2.51.0", "0.5.5", "3.10", platforms=_X86),
        Container("24.11", "2.52.0", "0.5.5", "3.12", platforms=_X86),
        Container("24.12", "2.53.0", "0.5.5", "3.12", platforms=_X86),
        Container("25.01", "2.54.0", "0.6.3.post1", "3.12", platforms=_X86),
        Container("25.02", "2.55.0", "0.7.0", "3.12", platforms=_X86),
        Container("25.03", "2.56.0", "0.7.3", "3.12", platforms=_X86),
        Container("25.04", "2.57.0", "0.8.1", "3.12"),
        Container("25.05", "2.58.0", "0.8.4", "3.12"),
        Container("25.07", "2.59.1", "0.9.0rc1", "3.12"),
        Container("25.08", "2.60.0", "0.9.2", "3.12"),
        Container("25.09", "2.61.0", "0.10.1.1", "3.12"),
        Container("25.10", "2.62.0", "0.10.2", "3.12"),
        Container("25.11", "2.63.0", "0.11.0", "3.12"),
        Container("25.12", "2.64.0", "0.11.1", "3.12"),
        Container("26.01", "2.65.0", "0.13.0", "3.12"),
        Container("26.02", "2.66.0", "0.15.1", "3.12"),
        Container("26.03", "2.67.0", "0.17.1", "3.12"),
        Container("26.04", "2.68.0", "0.19.0", "3.12"),
        Container("26.05", "2.69.0", "0.19.0", "3.12"),
        Container("26.06", "2.70.0", "0.22.1", "3.12"),
        Container("26.07", "2.71.0", "0.24.0", "3.12"),
        Container("26.08", "2.72.0", "0.27.1", "3.12"),
    )
}
NEWEST = max(CONTAINERS)
