"""llama.cpp's own server, of the sources that set-up compiles its library from: the same release and kernels."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

from halfwatt.core.types import Progress

_KERNELS = (
    "-DGGML_NATIVE=ON",
    "-DCMAKE_CXX_FLAGS=-fno-tree-dse -fno-dse",
    "-DCMAKE_BUILD_TYPE=Release",
)  # see Makefile
_LEAST = ("-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DBUILD_SHARED_LIBS=OFF")
_NO_PAGE = ("-DLLAMA_BUILD_UI=OFF", "-DLLAMA_BUILD_WEBUI=OFF", "-DLLAMA_OPENSSL=OFF")


def built(at: Path, progress: Progress) -> Path:
    """The program; it is built where there is none in ``at`` for the installed release, which takes minutes.

    Raises:
        CalledProcessError: no sources, no compiler, or they do not compile.
    """
    release = version("llama-cpp-python")
    folder = at / f"llama-server-{release}"
    program = folder / "build" / "bin" / "llama-server"
    if program.exists():
        return program
    folder.mkdir(parents=True, exist_ok=True)
    progress(f"building llama.cpp's server of llama-cpp-python {release}")
    name = f"llama-cpp-python=={release}"
    download = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:")
    subprocess.run([*download, "--no-build-isolation", "-d", str(folder), name], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as sources:
        sources.extractall(folder, filter="data")
    (tree,) = folder.glob("*/vendor/llama.cpp")
    build = str(folder / "build")
    options = ["-S", str(tree), "-B", build, *_KERNELS, *_LEAST, *_NO_PAGE]
    subprocess.run(["cmake", *options], check=True, stdout=subprocess.DEVNULL)
    make = ["cmake", "--build", build, "--target", "llama-server", "-j", "2"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    return program
