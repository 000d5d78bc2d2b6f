"""Equipment that tests of several rooms share; fixtures are in `conftest.py`.

Models and decoding: `decoding_runs` (requests, runs, references), `architectures` (tiny models of
every kind), `draft_lengths` (the same texts at two draft lengths), `drafted_steps` (a greedy text's
steps from the drafter's own passes), `eagle_heads`, `mutants` (bugs injected into the engine),
`pretended_gpu` (tensors that refuse to meet the CPU's).

Records and runs: `synthetic_records` (records with counts worked by hand, folders of them),
`placed_records` (steps whose truth is known), `paired_runs` (two drafters on the same requests),
`run_folders`, `evaluations` (whole runs of lm-eval with a pair on disk), `training_runs`,
`suite_rows` (rows of the multilingual data sets).

What a user sees: `commands` (a refusal in one line, settings without a network), `environments` (a
virtual environment of its own), `pages` (HTML read by a parser).
"""
