specfair run --tasks specfair_demo --limit 10 --batch_size 4 --model_args drafter=embedded,baseline=all,records_dir=results/drafters/embedded
specfair policy results/drafters/embedded -o results/drafters/policy.json --format md > results/drafters/policy.md
specfair run --tasks specfair_demo --limit 10 --batch_size 4 --model_args drafter=embedded,num_speculative_tokens=results/drafters/policy.json,baseline=all,records_dir=results/drafters/policy
specfair run --tasks specfair_demo --limit 10 --batch_size 4 --model_args drafter=embedded-fair,baseline=all,records_dir=results/drafters/embedded-fair
specfair run --tasks specfair_demo --limit 10 --batch_size 4 --model_args drafter=prompt_lookup,baseline=all,records_dir=results/drafters/prompt_lookup
specfair compare results/drafters/embedded results/drafters/policy results/drafters/embedded-fair results/drafters/prompt_lookup --gate examples/gate.yaml --format md > results/drafters/comparison.md
specfair compare results/drafters/embedded results/drafters/policy results/drafters/embedded-fair results/drafters/prompt_lookup --gate examples/gate.yaml --format html > results/drafters/comparison.html
specfair submission pack results/drafters/embedded --name 'embedded drafter'
specfair submission pack results/drafters/policy --name 'embedded, policy'
specfair submission pack results/drafters/embedded-fair --name 'embedded drafter, trained for fairness'
specfair submission pack results/drafters/prompt_lookup --name 'prompt lookup'
specfair submission validate results/drafters/embedded results/drafters/policy results/drafters/embedded-fair results/drafters/prompt_lookup
specfair leaderboard results/drafters -o results/drafters
