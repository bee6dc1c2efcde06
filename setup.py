"""Builds the C++ kernels with CMake and puts the library inside the package."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
LIBRARY = "libkerasq_tflite.so"


class CMakeBuild(build_ext):
    """Run CMake on ``tflite_kernels`` in place of a compiler call."""

    def get_ext_filename(self, fullname: str) -> str:
        """Name the file as it is: a plain shared library, no module of Python."""
        *package, _ = fullname.split(".")
        return str(Path(*package, LIBRARY))

    def build_extension(self, ext: Extension) -> None:
        """Compile, and copy the library to where setuptools expects it."""
        cmake = shutil.which("cmake")
        if cmake is None:
            raise RuntimeError("kerasq compiles its kernels with CMake (>= 3.20): install cmake")
        build = ROOT / "build" / "package"
        subprocess.check_call(
            [cmake, "-S", str(ROOT / "tflite_kernels"), "-B", str(build)]
            + ["-DCMAKE_BUILD_TYPE=Release"]
        )
        jobs = str(os.cpu_count() or 1)
        target = ["--target", "kerasq_tflite", "--parallel", jobs]
        subprocess.check_call([cmake, "--build", str(build), *target])
        destination = Path(self.get_ext_fullpath(ext.name))
        destination.parent.mkdir(parents=True, exist_ok=True)
        # Replaced, not overwritten: a program that runs with the old library keeps it.
        fresh = destination.with_suffix(".new")
        shutil.copyfile(next(build.rglob(LIBRARY)), fresh)
        os.replace(fresh, destination)


class BinaryDistribution(Distribution):
    """A wheel with machine code, whatever the Python version."""

    def has_ext_modules(self) -> bool:
        """Tell wheel to name the platform."""
        return True


setup(
    ext_modules=[Extension("kerasq.runtime.kernels", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    distclass=BinaryDistribution,
)
