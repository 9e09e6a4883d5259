"""Figures and a page from what a run wrote: files in, files out; no torch, works on a laptop.

- `curves`: plots against the training step: a curve an arm, the mean over its seeds, in a band from lowest to highest
  seed
- `distributions`: plots without a time axis: distributions over a whole run, the arms' test scores, where the time
  went
- `figures`: every plot of the paper (and some more) from any run or several: `draw_run`, `draw_lab`
- `page`: one self-contained HTML page for a run or a lab: summary, figures as inline SVG, a look at trajectories
- `read_runs`: reading what runs and labs left behind: metrics, evaluations, the lab's ``results.json``
- `style`: how every figure looks: colours that colour-blind readers can tell apart, plain axes, "not recorded"
- `transcript`: what an agent wrote as plain text, turn by turn, with rewards and advantages
- `trajectories`: A look at what the policy wrote: a few steps of a run, of each the group that taught the most, turn
  by turn
"""
