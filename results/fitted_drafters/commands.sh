python experiments/fitted/cross_fit.py -o results/fitted_drafters --work build/fitted --declaration DECLARATION.jsonl
specfair fit results/demo_batch_1 --kind lookup -o results/fitted_drafters/answers
