specfair replay results/demo_batch_1 --drafter embedded --costs-from results/drafters/embedded -o results/runs/routing/embedded
specfair replay results/demo_batch_1 --drafter embedded-fair --costs-from results/drafters/embedded-fair -o results/runs/routing/embedded-fair
specfair replay results/demo_batch_1 --drafter prompt_lookup --costs-from results/drafters/prompt_lookup -o results/runs/routing/prompt_lookup
specfair policy results/runs/routing/embedded results/runs/routing/embedded-fair results/runs/routing/prompt_lookup -o results/routing/policy.json --format md > results/routing/policy.md
