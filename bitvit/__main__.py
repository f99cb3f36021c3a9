"""python -m bitvit"""

from bitvit.cli import main

if __name__ == "__main__":
    main()
