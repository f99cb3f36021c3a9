"""bitvit convert as a script: python tools/convert.py SRC -o OUT [options], see --help."""

import sys

from bitvit.cli import app

if __name__ == "__main__":
    app(["convert", *sys.argv[1:]], prog_name="bitvit")
