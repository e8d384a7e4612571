"""Detection works where torch is absent: web and scheduler run without it."""

from __future__ import annotations

import subprocess
import sys


def test_formats_import_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['safetensors'] = sys.modules['numpy'] = None\n"
        "import farm.lora.formats.match, farm.lora.layout, farm.lora.schedule"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
