"""What families of models need beyond one causal mask: masks by layer, own positions, a trial."""
