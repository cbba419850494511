"""Coming from DLIO: its workload files turned into ours. Knows DLIO's keys and our fields; reads no dataset and measures nothing."""
