"""`python -m effsam_export` is `effsam`."""

from effsam_export.cli import main

main()
