"""run.json: what each stage cost, by which versions, of which source."""

import json
from importlib.metadata import version

from lumin.exact import sweep, write
from lumin.run import manifest
from lumin.run.study import Study

PACKAGES = (
    *("torch", "torchvision", "pydicom", "numpy", "scikit-learn", "scipy"),
    *("pillow", "safetensors"),
)


def note(study: Study, costs: dict[str, dict]) -> None:
    """Add what stages cost to run.json."""
    path = study.out / "run.json"
    with manifest.claim_folder(study.out, "run", patience=60):
        old = json.loads(path.read_text()) if path.exists() else {"stages": {}}
        content = {
            "settings": study.settings | {"jobs": study.jobs},
            "versions": {package: version(package) for package in PACKAGES},
            "commit": manifest.source(),
            "stages": old["stages"] | costs,
        }
        sweep(path)
        write(path, json.dumps(content, indent=1, sort_keys=True) + "\n")
        manifest.commit(study.out, "run", ["run.json"], {}, {}, part="unverified")
