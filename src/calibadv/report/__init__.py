"""Figures and a page from what a run wrote: files in, files out; no torch, works on a laptop.

=========  ==========================================================================
runs       a run folder or a lab folder read into `Run` and `Arm` records
panels     one function a plot: arms drawn onto axes
figures    `draw_run`, `draw_lab`: every plot of the paper as PNG and SVG
page       `write_page`: one self-contained HTML page with the figures and a look at trajectories
=========  ==========================================================================

Importing this package loads nothing; `figures` and `page` need matplotlib (``pip install 'calibadv[report]'``).
"""
