specfair run --tasks specfair_demo --batch_size 32 --gen_kwargs do_sample=True,temperature=1.0 --model_args drafter=embedded,baseline=0,lossless_checks=0,records_dir=build/temperature/t1.0
specfair run --tasks specfair_demo --batch_size 32 --gen_kwargs do_sample=True,temperature=0.7 --model_args drafter=embedded,baseline=0,lossless_checks=0,records_dir=build/temperature/t0.7
specfair run --tasks specfair_demo --batch_size 32 --gen_kwargs do_sample=True,temperature=0.5 --model_args drafter=embedded,baseline=0,lossless_checks=0,records_dir=build/temperature/t0.5
python experiments/temperature/own_temperature.py results/demo_batch_1 build/temperature/t0.5 build/temperature/t0.7 build/temperature/t1.0 -o results/temperature --work build/replays
