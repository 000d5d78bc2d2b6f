python experiments/temperature/block_gain.py results/demo_batch_1 --temperatures 1.0 -o build/out/block
python experiments/temperature/block_gain.py results/demo_batch_1 --temperatures 0.7 --rules token -o build/out/block7
