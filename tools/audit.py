"""Known vulnerabilities of the packages in constraints.txt.

    make audit               # or: python tools/audit.py [--required]

pip-audit ends with status 0 also where its service knows none of the packages, as behind a mirror
that has no advisories. Here packages that were not audited are counted and reported. Status: 0 all
were audited and none is vulnerable, or the service could not be reached and `--required` was not
given; 1 otherwise.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--required", action="store_true", help="status 1 also where something was not audited"
    )
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    # Versions as they stand: nothing is resolved or installed for an audit.
    command += ["--disable-pip", "--no-deps", "--requirement", str(CONSTRAINTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        print(f"audit: NOT AUDITED: {last:.300}")
        return 1 if arguments.required else 0
    skipped = [each["name"] for each in packages if "skip_reason" in each]
    vulnerable = [each for each in packages if each.get("vulns")]
    for each in vulnerable:
        known = ", ".join(vuln["id"] for vuln in each["vulns"])
        print(f"audit: {each['name']} {each['version']}: {known}")
    print(
        f"audit: {len(packages) - len(skipped)} of {len(packages)} packages audited, "
        f"{len(vulnerable)} vulnerable"
    )
    if skipped:
        why = next(each["skip_reason"] for each in packages if "skip_reason" in each)
        print(f"audit: NOT AUDITED: {len(skipped)} packages, the first because: {why}")
    return 1 if vulnerable or (skipped and arguments.required) else 0


if __name__ == "__main__":
    sys.exit(main())
