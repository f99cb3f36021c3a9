"""`bitvit convert` as a module: python -m tools.convert SRC -o OUT [options]; --help lists them."""

import sys

from bitvit.cli import app

if __name__ == "__main__":
    app(["convert", *sys.argv[1:]], prog_name="bitvit")
